"""A shop: its pages, its tasks, its database."""
