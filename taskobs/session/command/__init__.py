"""What a short command records without an SDK."""
