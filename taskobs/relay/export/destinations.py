"""What is known of one Sentry: how much to send to it at a time, when, and what it failed on.

Only decisions are made here. ``envelopes`` has the threads, and sends.
"""

from __future__ import annotations

import heapq
import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from taskobs.internal.outage import Outage
from taskobs.relay.export import responses
from taskobs.relay.export.responses import ExportResult
from taskobs.relay.export.sentry import SentryPoster
from taskobs.relay.storage.items import Stored, weight

_log = logging.getLogger("taskobs.relay")
WINDOW: Final = 16
"""Requests to one Sentry at a time, once it has answered some."""
TRIES: Final = 5
"""An envelope on which a server has failed so often is given up, if others got through since."""
MOST_TRIES: Final = 20
"""... and in any case after these, which take some ten minutes."""
SET_ASIDE: Final = 100
SET_ASIDE_BYTES: Final = 1024 * 1024
"""How many envelopes, and bytes, that a server has failed on are kept in memory to be retried."""
_PACE: Final = 0.1
"""Seconds between two envelopes while a server fails on each: it may be out of order."""


@dataclass(order=True)
class Failure:
    """An envelope on which a server has failed, and when to try it again."""

    due: float
    number: int
    stored: Stored = field(compare=False)
    tries: int = field(default=1, compare=False)
    others_accepted: bool = field(default=False, compare=False)
    """Whether the server has accepted another envelope since the first try."""
    reason: str = field(default="", compare=False)
    early: bool = field(default=False, compare=False)
    """Whether the next try is before its time, because of a flush: then it is not counted."""

    @property
    def hopeless(self) -> bool:
        """Whether it has been tried often enough."""
        return self.tries >= (TRIES if self.others_accepted else MOST_TRIES)


class Destination:
    """One Sentry client's server. Not thread-safe: the sender's lock is held.

    It gets one request at a time at first, twice as many after each success, and one again when a
    request fails: a server that is down occupies one thread, not all of them.
    """

    def __init__(
        self, key: bytes, poster: SentryPoster, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """``key`` is the ``resource_blob`` of its envelopes."""
        self.key, self.poster = key, poster
        self.outage = Outage(_log, f"taskobs relay: envelope export to {poster.address}")
        self.in_flight = 0
        self._clock = clock
        self._window = 1
        self._pauses = self._strikes = 0
        """Pauses, and server errors, since the last success."""
        self._paused_at = self._resume_at = -math.inf
        self._ignore_flush = False
        self._failures: list[Failure] = []
        """What is to be retried, a heap by time."""
        self._failures_bytes = 0

    @property
    def ready(self) -> bool:
        """Whether a request may be begun."""
        return self.in_flight < self._window and self._clock() >= self._resume_at

    @property
    def idle(self) -> bool:
        """Whether nothing is under way, paused or to be retried, so that it may be forgotten."""
        return not (self.in_flight or self._failures or self._clock() < self._resume_at)

    @property
    def failing(self) -> str:
        """Why the last request failed; empty if it didn't."""
        return self.outage.reason or (self._failures[0].reason if self._failures else "")

    @property
    def next_at(self) -> float:
        """When a pause, or the wait of a failed envelope, ends; infinity if there is none."""
        if self._clock() < self._resume_at:
            return self._resume_at
        return self._failures[0].due if self._failures and self.ready else math.inf

    def due(self) -> Failure | None:
        """Remove and return an envelope that is to be retried now."""
        if not (self.ready and self._failures and self._failures[0].due <= self._clock()):
            return None
        failure = heapq.heappop(self._failures)
        self._failures_bytes -= weight(failure.stored.item)
        failure.tries += not failure.early
        failure.early = False
        return failure

    def flush(self) -> None:
        """End pauses, but for those that the server asked for."""
        now = self._clock()
        if not self._ignore_flush:
            self._resume_at = min(self._resume_at, now)
        for failure in self._failures:
            failure.early = failure.early or failure.due > now
            failure.due = min(failure.due, now)
        heapq.heapify(self._failures)

    def succeeded(self) -> None:
        """Note that an envelope was accepted."""
        self._window = min(WINDOW, self._window * 2)
        self._pauses = self._strikes = 0
        for failure in self._failures:
            failure.others_accepted = True
        self.outage.ended()

    def unavailable(self, result: ExportResult, begun: float, longest: float = math.inf) -> None:
        """Pause after a request, begun at a time, that failed whatever its envelope was.

        ``longest`` bounds the pause, unless the server said how long.
        """
        self.outage.began(result.text)
        self._window = 1
        now = self._clock()
        if result.wait is not None:
            self._pause(now, max(self._resume_at, now + result.wait), ignore_flush=True)
        elif begun >= self._paused_at:
            # Older requests were under way when the pause began: they are no attempts of their own.
            wait = min(longest, responses.backoff(self._pauses))
            self._pause(now, now + wait, ignore_flush=False)
            self._pauses += 1

    def _pause(self, now: float, until: float, *, ignore_flush: bool) -> None:
        self._paused_at, self._resume_at, self._ignore_flush = now, until, ignore_flush

    def failed_on(self, failure: Failure, longest: float = math.inf) -> list[Failure]:
        """Note a server error, and set the envelope aside; return what is to be given up for it.

        Raises:
            ServerFailingError: the server has failed on so many and accepted none since, that it
                has to be out of order. The envelope is not set aside.
        """
        now = self._clock()
        self._window = 1
        self._strikes += 1
        if self._strikes > 1:
            self._resume_at = max(self._resume_at, now + _PACE)
        if failure.hopeless:
            return [failure]
        given_up = self._make_room(weight(failure.stored.item))
        failure.due = now + min(longest, responses.backoff(failure.tries - 1))
        self._set_aside(failure)
        return given_up

    def _set_aside(self, failure: Failure) -> None:
        heapq.heappush(self._failures, failure)
        self._failures_bytes += weight(failure.stored.item)

    def _make_room(self, size: int) -> list[Failure]:
        """Remove failures that are to be given up, those with most tries first."""
        removed: list[Failure] = []
        while self._failures and (
            len(self._failures) >= SET_ASIDE or self._failures_bytes + size > SET_ASIDE_BYTES
        ):
            most = max(self._failures, key=lambda one: (one.others_accepted, one.tries))
            if not most.others_accepted:
                for one in removed:
                    self._set_aside(one)
                raise ServerFailingError
            self._failures.remove(most)
            self._failures_bytes -= weight(most.stored.item)
            removed.append(most)
        heapq.heapify(self._failures)
        return removed


class ServerFailingError(Exception):
    """A server fails on every envelope."""
