"""A moment of the past, by the wall clock as it is set now."""

from __future__ import annotations

import time
from typing import Final

STEP_NS: Final = 500_000_000
"""Nanoseconds by which the wall clock has to differ to count as set."""


class Moment:
    """The moment at which this is made.

    How long ago it was is measured by the monotonic clock. When somebody sets the wall clock, the
    moment is as long ago as before, so that nothing begins after its end or days before it.
    """

    def __init__(self) -> None:
        self._ticks, self._shown = time.monotonic_ns(), time.time_ns()

    @property
    def epoch_ns(self) -> int:
        """Nanoseconds since the epoch; the same at each look unless the wall clock was set."""
        shown = time.time_ns() - (time.monotonic_ns() - self._ticks)
        if abs(shown - self._shown) > STEP_NS:
            self._shown = shown
        return self._shown
