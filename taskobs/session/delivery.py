"""Sending what a process has left, within a bound."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from typing import Final, Protocol

from taskobs.internal.timeouts import run_with_timeout

_log: Final = logging.getLogger("taskobs")

Flushes = Callable[[float], "list[Callable[[], object]]"]


class Relay(Protocol):
    """What a session's relay does here."""

    @property
    def carries(self) -> bool:
        """Whether what this process records goes to a relay."""
        ...

    def flush(self, timeout: float) -> bool:
        """See what the relay has got sent; tell whether that worked."""
        ...

    def end(self, timeout: float) -> bool:
        """Hand over what waits, as this process ends; tell whether that worked."""
        ...


class Delivery:
    """Flushes all that a session sends; ``flushes`` gives what exports from this process.

    All calls of ``end`` in a process together take at most ``shutdown_timeout`` seconds.
    """

    def __init__(self, flushes: Flushes, relay: Relay, shutdown_timeout: float) -> None:
        self._flushes = flushes
        self._relay = relay
        self._shutdown_timeout = shutdown_timeout
        self._deadline: float | None = None

    def flush(self, timeout: float | None) -> bool:
        """Send what there is, within ``timeout`` seconds; tell whether all was sent."""
        return self._deliver(
            self._shutdown_timeout if timeout is None else timeout, self._relay.flush
        )

    def end(self) -> None:
        """Send what is left, as the process ends."""
        left = self.left()
        if left > 0 and not self._deliver(left, self._relay.end):
            self._deadline = 0.0  # a backend that is dead now gets no second wait
            _log.warning(
                "taskobs: process %d ends with telemetry unsent: no answer within %.1f s",
                os.getpid(),
                self._shutdown_timeout,
            )

    def left(self) -> float:
        """Return how many seconds this process, which ends, may still spend on sending."""
        if self._deadline is None:
            self._deadline = time.monotonic() + self._shutdown_timeout
        return max(0.0, self._deadline - time.monotonic())

    def restart(self) -> None:
        """Let the process have its time again: it goes on, or is a child of the one that ended."""
        self._deadline = None

    def go_on(self) -> None:
        """The same, unless the backend has not answered in time."""
        self._deadline = 0.0 if self._deadline == 0.0 else None

    def _deliver(self, timeout: float, hand_over: Callable[[float], bool]) -> bool:
        """Send what this process sends itself, then have done what is to be done at the relay."""
        end = time.monotonic() + timeout
        carried = self._relay.carries
        sent = self._send(timeout)
        handed = hand_over(max(0.0, end - time.monotonic()))
        if carried and not self._relay.carries:  # it is gone, and has left all to this process
            sent = self._send(max(0.0, end - time.monotonic()))
        return sent and handed

    def _send(self, timeout: float) -> bool:
        jobs = self._flushes(timeout)
        return run_with_timeout(timeout, *jobs) if jobs else True
