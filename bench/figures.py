"""What a part of the benchmark gives: medians with their spread."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Figure:
    """The median of some measurements, and the quartiles beside it."""

    median: float
    low: float
    high: float

    @property
    def spread(self) -> float:
        """Half of the distance between the quartiles, as a share of the median."""
        return (self.high - self.low) / 2 / self.median if self.median else 0.0


def figure(found: Sequence[float]) -> Figure:
    """Summarise measurements."""
    if len(found) == 1:
        return Figure(found[0], found[0], found[0])
    low, median, high = statistics.quantiles(found, n=4, method="inclusive")
    return Figure(median, low, high)
