"""What the relay counts, and its export as metrics."""
