"""What the monitor says in the log: what it finds, what it can't know, and outages."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Final

from taskobs.celery.queues.readings import QueueReading, Reading
from taskobs.monitor.table import duration

_log: Final = logging.getLogger("taskobs")
EVERY: Final = 60.0
"""Seconds between two lines of the same kind."""
_MOST: Final = 10
"""Queues in a line; those with most messages come first."""


class Progress:
    """Logs how polling goes, at most once a minute unless something changes."""

    def __init__(self, broker: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._broker = broker
        self._clock = clock
        self._said_at: float | None = None
        self._failing_since: float | None = None
        self._names: set[str] = set()
        self._unknown: set[str] = set()

    def read(self, reading: Reading) -> None:
        """Handle a poll that succeeded."""
        if self._failing_since is not None:
            away = duration(self._clock() - self._failing_since)
            _log.info("taskobs monitor: %s can be asked again, after %s", self._broker, away)
            self._failing_since = self._said_at = None
        names = {queue.name for queue in reading.queues}
        due = self._is_due()
        if due or not names <= self._names:
            self._names |= names
            _log.info("taskobs monitor: %s", summary(reading))
        for field, reason in reading.unknown.items():
            if field not in self._unknown:
                self._unknown.add(field)
                _log.info("taskobs monitor: %s is not known: %s", field, reason)

    def failed(self, error: Exception) -> None:
        """Handle a poll that failed."""
        if self._failing_since is None:
            self._failing_since, self._said_at = self._clock(), None
        if self._is_due():
            _log.warning(
                "taskobs monitor: %s can't be asked, trying again: %s", self._broker, error
            )

    def _is_due(self) -> bool:
        now = self._clock()
        if self._said_at is not None and now - self._said_at < EVERY:
            return False
        self._said_at = now
        return True


def summary(reading: Reading) -> str:
    """Return a reading in one line."""
    if not reading.queues:
        return "no queue is known"
    fullest = sorted(reading.queues, key=lambda queue: -(queue.ready or 0))
    more = len(fullest) - _MOST
    shown = [_in_words(queue) for queue in fullest[:_MOST]]
    return "; ".join([*shown, f"and {more} more queues"] if more > 0 else shown)


def _in_words(queue: QueueReading) -> str:
    parts = [
        (queue.ready, "{} ready"),
        (queue.unacked, "{} unacked"),
        (duration(queue.oldest_age) if queue.oldest_age else None, "oldest {}"),
        (queue.consumers, "{} consumers"),
    ]
    found = [text.format(value) for value, text in parts if value is not None]
    return f"{queue.name}: {', '.join(found) or 'nothing is known'}"
