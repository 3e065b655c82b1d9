"""What turns the record of a publish or run into telemetry."""
