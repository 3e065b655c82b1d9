"""Sends a process's pending telemetry, in bounded time."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from functools import partial
from typing import Final, Protocol

from taskobs.internal.timeouts import run_with_timeout

_log: Final = logging.getLogger("taskobs")
_EARLY: Final = 0.01
"""Seconds before its timeout at which a flush may give up: the SDK counts milliseconds."""

Flushes = Callable[[float], "list[Callable[[], object]]"]


class Relay(Protocol):
    """The part of a session's relay that is used here."""

    @property
    def carries(self) -> bool:
        """Whether what this process records goes to a relay."""
        ...

    def flush(self, timeout: float) -> bool:
        """Wait until the relay has sent what it received; tell whether it did."""
        ...

    def end(self, timeout: float) -> bool:
        """Hand pending frames over, as this process ends; tell whether that worked."""
        ...


class Delivery:
    """Flushes all that a session sends; ``flushes`` returns this process's own exports.

    All calls of ``end`` in a process together take at most ``shutdown_timeout`` seconds.
    """

    def __init__(self, flushes: Flushes, relay: Relay, shutdown_timeout: float) -> None:
        self._flushes = flushes
        self._relay = relay
        self._shutdown_timeout = shutdown_timeout
        self._deadline: float | None = None

    def flush(self, timeout: float | None) -> bool:
        """Send pending telemetry, within ``timeout`` seconds; tell whether all was sent."""
        return self._deliver(
            self._shutdown_timeout if timeout is None else timeout, self._relay.flush
        )

    def end(self) -> None:
        """Send pending telemetry, as the process ends."""
        left = self.left()
        if left > 0 and not self._deliver(left, self._relay.end):
            self._deadline = 0.0  # don't wait a second time for a backend that doesn't answer
            _log.warning(
                "taskobs: process %d ends with telemetry unsent: no answer within %.1f s",
                os.getpid(),
                self._shutdown_timeout,
            )

    def left(self) -> float:
        """Return the seconds that this process may still spend on sending before it ends."""
        if self._deadline is None:
            self._deadline = time.monotonic() + self._shutdown_timeout
        return max(0.0, self._deadline - time.monotonic())

    def spent(self, seconds: float) -> None:
        """Count time that this process, which is about to end, has spent on sending already."""
        self._deadline = time.monotonic() + max(0.0, self._shutdown_timeout - seconds)

    def give_up(self) -> None:
        """Wait for nothing any more: what is pending is sent by its own threads, or not at all."""
        self._deadline = 0.0

    def restart(self) -> None:
        """Reset the time limit: the process continues after all, or is a new child."""
        self._deadline = None

    def go_on(self) -> None:
        """Reset the time limit, unless a backend didn't answer within it."""
        self._deadline = 0.0 if self._deadline == 0.0 else None

    def _deliver(self, timeout: float, hand_over: Callable[[float], bool]) -> bool:
        """Run this process's own exports, then ``hand_over`` with the time that remains."""
        end = time.monotonic() + timeout
        carried = self._relay.carries
        sent = self._send(timeout)
        handed = hand_over(max(0.0, end - time.monotonic()))
        # The relay became unavailable: this process sends the frames that it did not deliver.
        if carried and not self._relay.carries:
            sent = self._send(max(0.0, end - time.monotonic()))
        return sent and handed

    def _send(self, timeout: float) -> bool:
        deadline = time.monotonic() + timeout
        gave_up: list[bool] = []

        def flush(job: Callable[[], object]) -> None:
            # A flush of the SDK that heeds its timeout gives up by itself, and says so (seen in
            # OpenTelemetry 1.28). It also returns False after a shutdown, with nothing to send.
            if job() is False and time.monotonic() >= deadline - _EARLY:
                gave_up.append(True)

        jobs = [partial(flush, job) for job in self._flushes(timeout)]
        return (run_with_timeout(timeout, *jobs) if jobs else True) and not gave_up
