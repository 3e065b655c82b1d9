"""How old the items of a spool are, whatever is done to the wall clock.

A spool has a clock of its own, which its items are stamped with. It never runs backwards: within
one boot of the machine it follows the monotonic clock, over restarts of the relay too. Over a
reboot, or on another machine, only the wall clock says how much time has passed. It may be wrong
by days (no battery, no time server yet), so it counts for ``longest`` seconds at most.
"""

from __future__ import annotations

import time
from typing import Final, NamedTuple

from taskobs.relay.storage.spool.worker_process import boot_id

_CLOCK: Final[int] = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
"""The monotonic clock; where there is one that counts while the machine sleeps, that."""


class ClockReading(NamedTuple):
    """A spool's clock at one moment, as its file keeps it."""

    now: float
    """Seconds of the spool's own clock."""
    boot: str
    """See ``worker_process.boot_id``; "" where boots can't be told apart."""
    ticks: float
    """The machine's monotonic clock at that moment."""
    wall: float
    """The wall clock at that moment."""

    def until_now(self, longest: float) -> float:
        """Return the seconds that have passed since."""
        if self.boot and self.boot == boot_id():
            return max(0.0, _ticks() - self.ticks)
        return min(max(0.0, time.time() - self.wall), longest)


class SpoolClock:
    """A spool's clock, going on from the last reading that its file has kept."""

    def __init__(self, last: ClockReading | None, longest: float) -> None:
        now = 0.0 if last is None else last.now + last.until_now(longest)
        self._ahead = now - _ticks()

    def now(self) -> float:
        """Return the seconds that it shows."""
        return _ticks() + self._ahead

    def read(self) -> ClockReading:
        """Return what the file has to keep."""
        return ClockReading(self.now(), boot_id(), _ticks(), time.time())


def _ticks() -> float:
    return time.clock_gettime(_CLOCK)
