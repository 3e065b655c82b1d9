"""The relay: the helper process beside a worker that exports for all of its processes."""
