"""When a relay ends: with its worker, and within a bound."""

from __future__ import annotations

from typing import Final

from taskobs.internal import pids
from taskobs.relay.tracking.process_state import Alive

TERM_WAIT: Final = 120.0
"""Seconds that a relay works on after SIGTERM while its worker does.

systemd and Docker send the signal to all processes at a stop, and a warm stop takes its time.
"""


class Worker:
    """The worker that a relay serves: its parent process, by id."""

    def __init__(self, pid: int, alive: Alive = pids.alive) -> None:
        self.pid = pid
        self.closed_cleanly = False
        self._started = pids.start_time(pid)
        self._alive = alive

    @property
    def ended(self) -> bool:
        """Whether it has ended, or has said that it will; its pool children may still be there."""
        return self.closed_cleanly or not self._alive(self.pid, self._started)


class ShutdownPolicy:
    """Decides; times are in seconds on one monotonic clock. Not thread-safe."""

    def __init__(self, grace: float) -> None:
        self._grace = grace
        self._quiet_since: float | None = None
        self._deadline: float | None = None
        self._term_by: float | None = None

    @property
    def shutting_down(self) -> bool:
        """Whether all that is left to do is to send what waits."""
        return self._deadline is not None

    def terminate(self, now: float) -> None:
        """Note a SIGTERM; the second one doesn't wait for the worker."""
        self._term_by = now + TERM_WAIT if self._term_by is None else now

    def update(self, now: float, *, worker_ended: bool, connected: bool, waiting: bool) -> None:
        """Note how things stand.

        ``waiting``: spans are open in processes that are not connected; they get ``grace``.
        """
        if not worker_ended or connected:
            self._quiet_since = None
        elif self._quiet_since is None:
            self._quiet_since = now
        quiet = self._quiet_since is not None and (
            not waiting or now - self._quiet_since >= self._grace
        )
        if not quiet and (self._term_by is None or now < self._term_by):
            self._deadline = None
        elif self._deadline is None:
            self._deadline = now + self._grace

    def finished(self, now: float, pending: int) -> bool:
        """Tell whether to end, while ``pending`` items wait to be sent."""
        return self._deadline is not None and (not pending or now >= self._deadline)
