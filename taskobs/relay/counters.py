"""What the relay counts: what came in, what became of it, and how much waits."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from threading import Lock
from typing import Final

from taskobs.metrics.moment import Moment

_log = logging.getLogger("taskobs.relay")

RECEIVED: Final = "received"
EXPORTED: Final = "exported"
DROPPED: Final = "dropped"
RETRIED: Final = "retried"
SPOOLED: Final = "spooled"
LOST: Final = "lost"
DUPLICATE: Final = "duplicate"
DISCARDED: Final = "discarded"
"""Spans of runs that were not sampled, and had no reason to be kept: these are no losses."""
BYTES: Final = "bytes"
COUNTED: Final = (RECEIVED, EXPORTED, DROPPED, RETRIED, SPOOLED, LOST, DUPLICATE, DISCARDED, BYTES)

Gauge = Callable[[], int | float]


class Counters:
    """Counts by name, by kind ("span", "envelope", "log", ...) and by reason. Thread-safe."""

    def __init__(self) -> None:
        self._began = Moment()
        self._lock = Lock()
        self._counts: dict[str, Counter[tuple[str, str]]] = {name: Counter() for name in COUNTED}
        self._gauges: dict[tuple[str, str], Gauge] = {}
        self._details: dict[tuple[str, str], str] = {}
        """By kind and reason, what else was known of the first drop."""

    @property
    def since(self) -> float:
        """When counting began, in seconds since the epoch."""
        return self._began.epoch_ns / 1e9

    def add(self, name: str, kind: str, number: int = 1, reason: str = "") -> None:
        """Add to one of ``COUNTED``; raises ``KeyError`` for another name."""
        with self._lock:
            self._counts[name][kind, reason] += number

    def dropped(
        self, kind: str, number: int, reason: str, detail: str = "", *, log: bool = True
    ) -> None:
        """Count what will never arrive, and log the first of each kind and reason."""
        if number <= 0:
            return
        with self._lock:
            self._counts[DROPPED][kind, reason] += number
            first = (kind, reason) not in self._details
            self._details.setdefault((kind, reason), detail)
        if first and log:
            _log.warning(
                "taskobs relay: %ss are dropped: %s. This is logged once; all are counted",
                *(kind, _with(reason, detail)),
            )

    def losses(self) -> str:
        """Return how many of each kind were dropped, and why, as a text; empty if none."""
        with self._lock:
            details = self._details
            return "; ".join(
                f"{number} {kind}{'s' * (number != 1)}: {_with(reason, details[kind, reason])}"
                for (kind, reason), number in self._counts[DROPPED].items()
                if (kind, reason) in details
            )

    def gauge(self, name: str, read: Gauge, kind: str = "") -> None:
        """Register a function that returns a current value; it is called from any thread."""
        with self._lock:
            self._gauges[name, kind] = read

    def total(self, name: str, kind: str | None = None) -> int:
        """Sum one of ``COUNTED``, of one kind or of all."""
        with self._lock:
            counts = self._counts[name]
            return sum(n for (of, _), n in counts.items() if kind is None or of == kind)

    def counts(self) -> dict[str, dict[tuple[str, str], int]]:
        """Copy all counts: by name, then by kind and reason ("" for none)."""
        with self._lock:
            return {name: dict(counts) for name, counts in self._counts.items()}

    def gauges(self) -> dict[tuple[str, str], int | float]:
        """Read all gauges, by name and kind ("" for none)."""
        with self._lock:
            readers = dict(self._gauges)
        # Without the lock: a reader takes its owner's lock, and that owner counts while it has it.
        return {which: read() for which, read in readers.items()}

    def snapshot(self) -> dict[str, object]:
        """Return all of it as plain maps that JSON and msgpack carry.

        ``{"since": epoch seconds, "received": {"span": 3}, "dropped": {"span": {"overflow": 1}},
        "pending": {"span": 0}, "clients": 2, ...}``.
        """
        found: dict[str, object] = {"since": self.since}
        for name, counts in self.counts().items():
            found[name] = _by_reason(counts) if name == DROPPED else _by_kind(counts)
        for (name, kind), value in self.gauges().items():
            if kind:
                of = found.setdefault(name, {})
                assert isinstance(of, dict)  # noqa: S101  # a name has kinds or none
                of[kind] = value
            else:
                found[name] = value
        return found


def _with(reason: str, detail: str) -> str:
    return f"{reason} ({detail})" if detail else reason


def _by_kind(counts: dict[tuple[str, str], int]) -> dict[str, int]:
    summed: Counter[str] = Counter()
    for (kind, _), number in counts.items():
        summed[kind] += number
    return dict(summed)


def _by_reason(counts: dict[tuple[str, str], int]) -> dict[str, dict[str, int]]:
    found: dict[str, dict[str, int]] = {}
    for (kind, reason), number in counts.items():
        found.setdefault(kind, {})[reason] = number
    return found
