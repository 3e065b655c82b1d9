"""Where a test's telemetry comes from: this process, and workers that it starts."""
