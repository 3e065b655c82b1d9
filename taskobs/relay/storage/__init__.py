"""Where finished telemetry waits until it is exported: in memory or on disk."""
