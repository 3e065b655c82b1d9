"""Counts and times the runs of a whole worker, from the run metrics that its processes send."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, field
from threading import Lock
from typing import Any, Final, NamedTuple

from taskobs.model import Outcome
from taskobs.protocol import frames

MAX_SERIES: Final = 500
"""Combinations of task, outcome and queue; further ones are counted together, as ``OTHER``."""
OTHER: Final = "other"
BOUNDS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800, 3600)
"""Seconds: the upper bound of each bucket, the last one excepted."""
_OUTCOMES: Final = frozenset(outcome.value for outcome in Outcome)
_TEXT: Final = 255
_YEAR: Final = 31_536_000.0


class Labels(NamedTuple):
    """What distinguishes one series from another."""

    task: str
    outcome: str
    queue: str


@dataclass(slots=True)
class Series:
    """Runs with the same labels, and the durations, in seconds, of those that began."""

    count: int = 0
    total: float = 0.0
    least: float = float("inf")
    most: float = 0.0
    buckets: list[int] = field(default_factory=lambda: [0] * (len(BOUNDS) + 1))

    @property
    def timed(self) -> int:
        """How many runs had a duration."""
        return sum(self.buckets)

    def add(self, seconds: float | None) -> None:
        """Count one run; None is the duration of one that ended before it began."""
        self.count += 1
        if seconds is None:
            return
        self.total += seconds
        self.least = min(self.least, seconds)
        self.most = max(self.most, seconds)
        self.buckets[bisect_left(BOUNDS, seconds)] += 1

    def merge(self, other: Series) -> None:
        """Count all that another has counted."""
        self.count += other.count
        self.total += other.total
        self.least = min(self.least, other.least)
        self.most = max(self.most, other.most)
        self.buckets = [a + b for a, b in zip(self.buckets, other.buckets, strict=True)]


class RunStatistics:
    """Counts runs. Thread-safe."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._series: dict[Labels, Series] = {}

    def take(self, run_metric: bytes) -> None:
        """Count the run in the payload of a RUN_METRIC frame.

        Raises:
            ValueError: it is no such payload.
        """
        row: Any = frames.unpack(run_metric)
        try:
            task, outcome, queue, seconds = row
        except (TypeError, ValueError) as error:
            raise ValueError("not a run metric: it has other fields") from error
        if not isinstance(outcome, str) or outcome not in _OUTCOMES:
            raise ValueError("a run metric with an unknown outcome")
        if seconds is not None:
            if not isinstance(seconds, (int, float)) or not 0 <= seconds < _YEAR:
                raise ValueError("a run metric whose duration is not a number of seconds")
            seconds = float(seconds)
        self.add(Labels(_label(task), outcome, _label(queue)), seconds)

    def add(self, labels: Labels, seconds: float | None) -> None:
        """Count a run."""
        with self._lock:
            self._series_of(labels).add(seconds)

    def collect(self, *, reset: bool = False) -> dict[Labels, Series]:
        """Return what was counted, as a copy; with ``reset``, start again from zero."""
        with self._lock:
            if reset:
                taken, self._series = self._series, {}
                return taken
            copies: dict[Labels, Series] = {}
            for labels, series in self._series.items():
                copies[labels] = Series()
                copies[labels].merge(series)
            return copies

    def put_back(self, taken: dict[Labels, Series]) -> None:
        """Add what ``collect`` returned with ``reset``, and what could not be sent."""
        with self._lock:
            for labels, series in taken.items():
                self._series_of(labels).merge(series)

    def _series_of(self, labels: Labels) -> Series:
        series = self._series.get(labels)
        if series is None:
            if len(self._series) >= MAX_SERIES:
                labels = Labels(OTHER, labels.outcome, OTHER)
            series = self._series.setdefault(labels, Series())
        return series


def _label(value: object) -> str:
    return value[:_TEXT] if isinstance(value, str) else ""
