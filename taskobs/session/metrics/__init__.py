"""A session's metrics: what its processes count, and their export without a relay."""
