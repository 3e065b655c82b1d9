"""Histograms and bounded names, as plain objects.

A record of the SDK's own instruments takes 22 µs, which is more than a worker does for a task.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from typing import Final

from taskobs.metrics.families import Distribution, Exemplar, Labels

OTHER: Final = "_OTHER"
"""What names beyond a limit are counted as; the name is that of OpenTelemetry's conventions."""
_TRACE_ID: Final = "trace_id"
RUN_TIMES: Final = (
    *(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0),
    *(2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 3600.0),
)
"""Seconds: the upper bounds of the buckets of run times, but for the last."""
WAITS: Final = (
    *(0.01, 0.05, 0.1, 0.5, 1.0, 2.5, 5.0, 10.0),
    *(30.0, 60.0, 300.0, 600.0, 1800.0, 3600.0, 21600.0),
)
"""The same of the times that messages wait."""


class Histogram:
    """Observations, counted by bucket. ``counts`` are not cumulated.

    Threads may share it. CPython 3.10 and later lets another thread, or a signal handler, in only
    after a call or a backward jump, so each ``+=`` below is one step (bpo-29988).
    """

    __slots__ = ("bounds", "counts", "latest", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0
        self.latest: dict[int, tuple[int, float, float]] = {}
        """Of each bucket the latest in a trace: its id, the value, and when, since the epoch."""

    def observe(self, value: float) -> int:
        """Count a value; return the index of its bucket."""
        index = bisect_left(self.bounds, value)
        self.counts[index] += 1
        self.total += value
        return index

    def distribution(self, labels: Labels) -> Distribution:
        """Return it as one series of a family."""
        exemplars = {
            index: Exemplar({_TRACE_ID: f"{trace:032x}"}, value, at)
            for index, (trace, value, at) in self.latest.copy().items()
        }
        return Distribution(labels, [*self.counts], self.total, exemplars)


class Names:
    """Gives each of the first ``limit`` names back, and `OTHER` for all further ones."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._names: dict[str, str] = {}

    def __call__(self, name: str) -> str:
        """Return what to count a name as."""
        found = self._names.get(name)
        if found is None:
            if len(self._names) >= self._limit:
                return OTHER
            found = self._names.setdefault(name, name)
        return found
