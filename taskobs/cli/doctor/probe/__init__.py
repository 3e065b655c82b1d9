"""A probe task, published to a private queue and run by a worker that the doctor starts."""
