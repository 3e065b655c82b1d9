"""What the app calls by itself, beside ``init()``."""
