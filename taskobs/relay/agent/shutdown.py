"""Decides when a relay ends: when its worker has ended and all is sent, or after a bound."""

from __future__ import annotations

from typing import Final

from taskobs.internal import pids
from taskobs.relay.tracking.process_state import Alive

TERM_WAIT: Final = 120.0
"""Seconds that a relay works on after SIGTERM while its worker runs.

systemd and Docker send the signal to all processes at a stop, and a warm stop takes its time.
"""


class Worker:
    """The worker that a relay serves: its parent process, by id."""

    def __init__(self, pid: int, alive: Alive = pids.alive) -> None:
        self.pid = pid
        self.closed_cleanly = False
        # With its start time: after the worker has ended, another process may get its id.
        self._started = pids.start_time(pid)
        self._alive = alive

    @property
    def ended(self) -> bool:
        """Whether it has ended or sent CLOSE; its pool children may still run."""
        return self.closed_cleanly or not self._alive(self.pid, self._started)


class ShutdownPolicy:
    """Decides when to shut down and when to end; times are seconds of one monotonic clock."""

    def __init__(self, grace: float) -> None:
        self._grace = grace
        self._quiet_since: float | None = None
        self._deadline: float | None = None
        self._term_by: float | None = None

    @property
    def shutting_down(self) -> bool:
        """Whether only what waits is still sent."""
        return self._deadline is not None

    def terminate(self, now: float) -> None:
        """Note a SIGTERM; after a second one the worker isn't waited for."""
        self._term_by = now + TERM_WAIT if self._term_by is None else now

    def update(self, now: float, *, worker_ended: bool, connected: bool, waiting: bool) -> None:
        """Note the state of the worker and its processes.

        ``waiting``: spans are open in processes that aren't connected; these get ``grace`` seconds
        to connect again.
        """
        if not worker_ended or connected:
            self._quiet_since = None
        elif self._quiet_since is None:
            self._quiet_since = now
        quiet = self._quiet_since is not None and (
            not waiting or now - self._quiet_since >= self._grace
        )
        if not quiet and (self._term_by is None or now < self._term_by):
            self._deadline = None  # also after shutdown began: a process has connected again
        elif self._deadline is None:
            self._deadline = now + self._grace

    def finished(self, now: float, pending: int) -> bool:
        """Return whether to end, while ``pending`` items wait to be sent."""
        return self._deadline is not None and (not pending or now >= self._deadline)
