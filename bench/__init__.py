"""Compares what observing a task costs: nothing, the floor, taskobs, the stock stack."""
