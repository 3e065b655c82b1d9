"""Converts between the wall clock and the monotonic clock though the wall clock may be set.

Spans have start times of the wall clock. How much time has passed since then is measured by the
monotonic clock, so each step of the wall clock against it is remembered.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Final

STEP: Final = 0.5
"""Seconds by which the wall clock has to differ to count as set. (Slewing changes both clocks.)"""
_STEPS: Final = 64
_NS: Final = 1_000_000_000


class WallClock:
    """Remembers when the wall clock was set; ``observe`` it a few times a second."""

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], int] = time.time_ns,
    ) -> None:
        self._clock, self._wall = clock, wall
        self._periods = [(-math.inf, self._offset())]
        """From when on, on the monotonic clock, the wall clock was ahead of it by what."""

    def _offset(self) -> float:
        return self._wall() / _NS - self._clock()

    def observe(self) -> None:
        """Note whether the wall clock was set since the last call."""
        offset = self._offset()
        if abs(offset - self._periods[-1][1]) > STEP:
            self._periods.append((self._clock(), offset))
            del self._periods[:-_STEPS]

    def end_of(self, start_ns: int, end: float) -> int:
        """Return when something ended that began at ``start_ns`` by the wall clock of then.

        ``end`` is on the monotonic clock. The result is as much later than ``start_ns`` as time has
        passed; the same if it can't be known.
        """
        until = end
        for since, offset in reversed(self._periods):
            began = start_ns / _NS - offset
            if since - STEP <= began <= until + STEP:
                return start_ns + max(0, round((end - began) * _NS))
            until = since
        return start_ns
