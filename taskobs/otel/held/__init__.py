"""Spans of runs that are not sampled: recorded in a worker, and held until the run ends."""
