"""A thread that takes from the store and sends, until what it has taken is out or given up."""

from __future__ import annotations

import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from threading import Event, Thread
from typing import ClassVar, Final, NamedTuple

from taskobs.relay.counters import EXPORTED, RETRIED, Counters
from taskobs.relay.export.responses import ExportResult, ExportStatus, backoff
from taskobs.relay.storage.base import TOO_OLD, ItemKind, Store, Stored

_log = logging.getLogger("taskobs.relay")
AT_THE_END: Final = "not sent when the relay ended"
MALFORMED: Final = "malformed"
UNSENDABLE: Final = "the exporter refused them"
_STOPPING: Final = 1.0
"""Seconds between attempts once the end is near, unless the backend asks for more."""
_QUIET: Final = 60.0
"""Seconds between two lines on outages."""
_PAUSE: Final = 1.0
_POLL: Final = 0.02


class Limits(NamedTuple):
    """How much is taken at once, and how long more is waited for, in seconds."""

    items: int
    bytes: int
    max_delay: float


class Sender(ABC):
    """Sends what the store has of one kind. ``start`` and ``stop`` are called once each."""

    kind: ClassVar[ItemKind]
    limits: ClassVar[Limits]

    def __init__(self, store: Store, counters: Counters) -> None:
        self._store = store
        self._counters = counters
        self._outage = _Outage(self.kind)
        self._stopping = Event()
        self._ended = Event()
        self._thread = Thread(target=self._run, name=f"taskobs-{self.kind}s", daemon=True)

    def start(self) -> None:
        """Start the thread; it ends once the store is closed."""
        self._thread.start()

    def stop(self, timeout: float) -> bool:
        """Wait at most ``timeout`` seconds for the store to be empty; say whether it is.

        What is left is counted as dropped, or stays in the spool. Nothing is begun after that.
        """
        end = time.monotonic() + timeout
        self._stopping.set()
        self._store.flush()
        while self._store.pending(self.kind).items and time.monotonic() < end:
            time.sleep(_POLL)
        self._ended.set()
        left = self._store.pending(self.kind).items
        if left and self._store.durable:
            _log.warning("taskobs relay: %d %ss stay in the spool", left, self.kind)
        elif left:
            self._counters.dropped(self.kind, left, AT_THE_END, self._outage.reason)
        return not left

    def join(self, timeout: float) -> bool:
        """Wait for the thread after the store was closed; say whether it has ended."""
        self._thread.join(timeout)
        return not self._thread.is_alive()

    @abstractmethod
    def _send(self, batch: Sequence[Stored]) -> ExportResult:
        """Try once."""

    def _sift(self, batch: list[Stored]) -> list[Stored]:
        """Return what of a batch can be sent; the rest is given up."""
        return batch

    def _forget(self) -> None:  # noqa: B027  # not all have made something
        """Forget what was made of a batch: it may be long until the next."""

    def _shut(self) -> None:  # noqa: B027  # not all have something open
        """Close what is open, at the end of the thread."""

    def _run(self) -> None:
        while not self._over():
            self._one_batch()
            self._forget()
        self._shut()

    def _one_batch(self) -> None:
        batch = self._store.take(self.kind, *self.limits)
        try:
            self._carry(self._sift(batch))
        except Exception as error:  # noqa: BLE001  # a thread that ends would end all telemetry
            _log.exception("taskobs relay: %ss cannot be sent", self.kind)
            self._give_up(batch, "an error in the relay", type(error).__name__)
            self._store.pause(_PAUSE, ignore_flush=True)

    def _over(self) -> bool:
        return self._ended.is_set() or self._store.closed

    def _carry(self, batch: list[Stored]) -> None:
        """Send a batch until it is out or given up, or the end has come."""
        attempt = refused = 0
        while batch and not self._over():
            result = self._send(batch)
            refused += result.tries is not None
            if result.status is not ExportStatus.RETRY or refused == result.tries:
                self._settle(batch, result)
                return
            self._outage.began(result)
            self._pause(attempt, result)
            batch = self._young(batch)
            attempt += 1
            if batch and not self._over():
                self._counters.add(RETRIED, self.kind, len(batch))

    def _settle(self, batch: list[Stored], result: ExportResult) -> None:
        if result.status is ExportStatus.SPLIT and len(batch) > 1:
            half = len(batch) // 2
            self._carry(batch[:half])
            self._carry(batch[half:])
            return
        if result.status is not ExportStatus.SUCCESS:
            self._give_up(batch, result.reason, result.detail)
            return
        self._outage.over()
        rejected = min(result.rejected, len(batch))
        self._counters.dropped(self.kind, rejected, result.reason, result.detail)
        self._counters.add(EXPORTED, self.kind, len(batch) - rejected)
        self._store.done(batch)

    def _give_up(self, batch: Sequence[Stored], reason: str, detail: str = "") -> None:
        self._counters.dropped(self.kind, len(batch), reason, detail)
        self._store.done(batch)

    def _young(self, batch: list[Stored]) -> list[Stored]:
        """Give up what is older than the store keeps."""
        if self._store.age is None:
            return batch
        since = time.time() - self._store.age
        old = [one for one in batch if one.since < since]
        if old:
            self._give_up(old, TOO_OLD)
        return [one for one in batch if one.since >= since]

    def _pause(self, attempt: int, result: ExportResult) -> None:
        ignore_flush = result.wait is not None
        wait = backoff(attempt) if result.wait is None else result.wait
        end = time.monotonic() + wait
        while (left := end - time.monotonic()) > 0 and not self._over():
            if self._stopping.is_set():
                if not ignore_flush:
                    self._ended.wait(min(left, _STOPPING))
                    return
                self._ended.wait(left)
            else:
                flushes = self._store.pause(min(left, _PAUSE), ignore_flush=ignore_flush)
                if flushes and not self._stopping.is_set():
                    return


class _Outage:
    """Says in the log when a backend stops answering, and when it is back; not at each attempt."""

    def __init__(self, kind: str) -> None:
        self.reason = ""
        self._kind = kind
        self._since = 0.0
        self._told = -_QUIET
        self._tell = False

    def began(self, result: ExportResult) -> None:
        """Note an attempt that will be repeated."""
        now = time.monotonic()
        if not self.reason:
            self._since = now
            self._tell = now - self._told >= _QUIET
            if self._tell:
                self._told = now
                _log.warning(
                    "taskobs relay: %ss wait, and it is tried again: %s%s",
                    *(self._kind, result.reason, f" ({result.detail})" if result.detail else ""),
                )
        self.reason = result.reason

    def over(self) -> None:
        """Note that something went out."""
        if self.reason and self._tell:
            took = time.monotonic() - self._since
            _log.warning("taskobs relay: %ss go out again, after %.0f s", self._kind, took)
        self.reason = ""
