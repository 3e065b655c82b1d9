"""The latest reading of the queues, which the pages show and the exporters send."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict
from threading import Lock

from taskobs.celery.queues.readings import Reading


class Latest:
    """Holds the latest reading; thread-safe.

    A reading counts for ``lifetime`` seconds: if a poll hangs, no old number is
    shown.
    """

    def __init__(
        self, unread: Reading, *, lifetime: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """``unread`` is a reading in which nothing is known but the names."""
        self._lock = Lock()
        self._lifetime = lifetime
        self._clock = clock
        self._unread = self._reading = unread
        self._at: float | None = None

    def put(self, reading: Reading, unread: Reading) -> None:
        """Keep a reading, and what is shown when it is too old."""
        with self._lock:
            self._reading, self._unread, self._at = reading, unread, self._clock()

    def fail(self) -> None:
        """Note that the broker can't be reached: nothing is known now."""
        with self._lock:
            self._at = None

    @property
    def connected(self) -> bool:
        """Whether there is a reading that counts."""
        with self._lock:
            return self._counts()

    @property
    def reading(self) -> Reading:
        """The reading that counts, or one in which nothing is known."""
        with self._lock:
            return self._reading if self._counts() else self._unread

    def _counts(self) -> bool:
        return self._at is not None and self._clock() - self._at <= self._lifetime


def as_json(reading: Reading) -> str:
    """Return a reading for autoscalers: ``{"queues": [{"name", "ready", …}]}``."""
    return json.dumps({"queues": [asdict(queue) for queue in reading.queues]})
