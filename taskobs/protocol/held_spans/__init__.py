"""Spans of runs whose trace is not sampled: held until the run ends, then kept or discarded."""
