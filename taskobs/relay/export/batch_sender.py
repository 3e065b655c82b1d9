"""A thread that sends batches, one at a time, each until it is accepted or given up."""

from __future__ import annotations

import logging
import time
from abc import abstractmethod
from collections.abc import Sequence
from threading import Thread
from typing import ClassVar, Final, NamedTuple

from taskobs.internal.outage import Outage
from taskobs.relay.counters import Counters
from taskobs.relay.export import responses
from taskobs.relay.export.batch_size import BatchSize
from taskobs.relay.export.responses import ExportResult, ExportStatus
from taskobs.relay.export.sender import BROKEN, STOPPING_WAIT, Sender
from taskobs.relay.storage.base import Store
from taskobs.relay.storage.items import Stored

_log = logging.getLogger("taskobs.relay")
_PAUSE: Final = 1.0


class Limits(NamedTuple):
    """How much is sent at once, and how many seconds are waited for more."""

    items: int
    bytes: int
    max_delay: float


class BatchSender(Sender):
    """Sends batches to one backend. A batch that is refused as too large is sent in halves."""

    limits: ClassVar[Limits]

    def __init__(self, store: Store, counters: Counters, address: str = "") -> None:
        super().__init__(store, counters)
        self._address = address
        where = f" to {address}" * bool(address)
        self._outage = Outage(_log, f"taskobs relay: {self.kind} export{where}")
        self._size = BatchSize(self.limits.bytes)
        self._thread = Thread(target=self._run, name=f"taskobs-{self.kind}s", daemon=True)

    def start(self) -> None:
        """Start to send."""
        self._thread.start()

    @abstractmethod
    def _send(self, batch: Sequence[Stored]) -> ExportResult:
        """Try once."""

    def _decode(self, batch: list[Stored]) -> list[Stored]:
        """Return what of a batch can be sent; the rest is given up."""
        return batch

    def _forget(self) -> None:
        """Forget what was made of a batch: it may be long until the next."""

    def _join(self, timeout: float) -> bool:
        self._thread.join(timeout)
        return not self._thread.is_alive()

    @property
    def failing(self) -> str:
        """Why spans can't be sent at present; empty if nothing fails."""
        address, reason = self._address, self._outage.reason
        return f"{address}: {reason}" if address and reason else reason

    def _run(self) -> None:
        while True:
            # Read before ``_over``: an end that comes between the two interrupts ``take``.
            signal = self._store.signals(self.kind)
            if self._over():
                return
            self._one_batch(signal)
            self._forget()

    def _one_batch(self, signal: int) -> None:
        items, _, delay = self.limits
        batch = self._store.take(self.kind, items, self._size.limit, delay, signal=signal)
        try:
            self._send_all(self._without_hopeless(self._decode(batch)))
        except Exception as error:  # noqa: BLE001  # a thread that ends would end all telemetry
            _log.exception("taskobs relay: %s export failed", self.kind)
            self._give_up(batch, BROKEN, type(error).__name__)
            self._store.pause(_PAUSE, ignore_flush=True)

    def _send_all(self, batch: list[Stored]) -> None:
        """Send a batch until it is accepted or given up, or the relay ends."""
        attempt = 0
        while batch and not self._over():
            result = self._send(batch)
            if result.status is not ExportStatus.RETRY:
                self._settle(batch, result)
                return
            self._outage.began(result.text)
            self._wait(attempt, result)
            batch = self._without_old(batch)
            attempt += 1
            if batch and not self._over():
                self._retrying(batch)

    def _settle(self, batch: list[Stored], result: ExportResult) -> None:
        if result.status is ExportStatus.TOO_LARGE:
            self._size.refused(batch, result)
        if result.status is ExportStatus.SUCCESS:
            self._outage.ended()
            self._size.accepted(batch)
            self._exported(batch, result.rejected, result.reason, result.detail)
        elif result.status is ExportStatus.DROP or len(batch) == 1:
            self._give_up(batch, result.reason, result.detail)
        else:
            half = len(batch) // 2
            for part in (batch[:half], batch[half:]):
                self._send_all(self._without_hopeless(part))

    def _without_hopeless(self, batch: list[Stored]) -> list[Stored]:
        """Give up, unsent, what the backend would refuse as too large; return the rest."""
        hopeless = [one for one in batch if self._size.is_hopeless(one)]
        if not hopeless or self._size.refusal is None:
            return batch
        self._give_up(hopeless, self._size.refusal.reason, self._size.refusal.detail)
        return [one for one in batch if not self._size.is_hopeless(one)]

    def _wait(self, attempt: int, result: ExportResult) -> None:
        """Wait before the next attempt; a flush ends it, unless the backend said how long."""
        ignore_flush = result.wait is not None
        wait = responses.backoff(attempt) if result.wait is None else result.wait
        end = time.monotonic() + wait
        while (left := end - time.monotonic()) > 0 and not self._over():
            if self._stopping.is_set():
                if not ignore_flush:
                    self._ended.wait(min(left, STOPPING_WAIT))
                    return
                self._ended.wait(left)
            else:
                flushed = self._store.pause(min(left, _PAUSE), ignore_flush=ignore_flush)
                if flushed and not self._stopping.is_set():
                    return
