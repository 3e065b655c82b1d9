"""What carries finished telemetry out of this process."""
