"""Counts deliveries and publishes, and reads what a worker is at a moment."""
