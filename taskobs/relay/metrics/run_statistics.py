"""Runs, counted and timed for a whole worker, from the facts that its processes send."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, field
from threading import Lock
from typing import Any, Final, NamedTuple

from taskobs.model import Outcome
from taskobs.protocol import frames

SETS: Final = 500
"""Combinations of task, outcome and queue that are told apart."""
OTHER: Final = "other"
BOUNDS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800, 3600)
"""Seconds; the largest of each bucket but the last."""
_OUTCOMES: Final = frozenset(outcome.value for outcome in Outcome)
_TEXT: Final = 255
_YEAR: Final = 31_536_000.0


class Labels(NamedTuple):
    """What runs are told apart by."""

    task: str
    outcome: str
    queue: str


@dataclass(slots=True)
class Series:
    """Runs of the same labels, the durations of those that began, in seconds."""

    count: int = 0
    total: float = 0.0
    least: float = float("inf")
    most: float = 0.0
    buckets: list[int] = field(default_factory=lambda: [0] * (len(BOUNDS) + 1))

    @property
    def timed(self) -> int:
        """How many had a duration."""
        return sum(self.buckets)

    def add(self, seconds: float | None) -> None:
        """Count one; None for one that ended before it began."""
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
        """Count the run that the payload of a FACT tells of; raises ``ValueError`` for another."""
        row: Any = frames.unpack(run_metric)
        try:
            task, outcome, queue, seconds = row
        except (TypeError, ValueError) as error:
            raise ValueError("no fact: it has other fields") from error
        if not isinstance(outcome, str) or outcome not in _OUTCOMES:
            raise ValueError("a fact of no known outcome")
        if seconds is not None:
            if not isinstance(seconds, (int, float)) or not 0 <= seconds < _YEAR:
                raise ValueError("a fact that took no time")
            seconds = float(seconds)
        self.add(Labels(_label(task), outcome, _label(queue)), seconds)

    def add(self, labels: Labels, seconds: float | None) -> None:
        """Count a run; of too many labels, as one of another task."""
        with self._lock:
            self._found(labels).add(seconds)

    def collect(self, *, reset: bool = False) -> dict[Labels, Series]:
        """Copy what was counted; with ``reset``, begin anew."""
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
        """Count again what was taken with ``reset``, and could not be sent."""
        with self._lock:
            for labels, series in taken.items():
                self._found(labels).merge(series)

    def _found(self, labels: Labels) -> Series:
        series = self._series.get(labels)
        if series is None:
            if len(self._series) >= SETS:
                labels = Labels(OTHER, labels.outcome, OTHER)
            series = self._series.setdefault(labels, Series())
        return series


def _label(value: object) -> str:
    return value[:_TEXT] if isinstance(value, str) else ""
