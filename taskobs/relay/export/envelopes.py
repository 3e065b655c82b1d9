"""Sends Sentry's envelopes, several at a time, each to the server of its client.

No client waits for another one's server, and no envelope for another one on which a server fails.
"""

from __future__ import annotations

import logging
import math
import time
from collections import OrderedDict
from contextlib import suppress
from threading import Lock, Thread
from typing import Any, ClassVar, Final

from taskobs.protocol import frames
from taskobs.relay.counters import Counters
from taskobs.relay.export.destinations import WINDOW, Destination, Failure, ServerFailingError
from taskobs.relay.export.responses import ExportResult, ExportStatus
from taskobs.relay.export.sender import BROKEN, MALFORMED, STOPPING_WAIT, Sender
from taskobs.relay.export.sentry import SentryPoster
from taskobs.relay.export.sentry_dsn import DsnError
from taskobs.relay.storage.base import Store
from taskobs.relay.storage.items import ItemKind, Stored

_log = logging.getLogger("taskobs.relay")
THREADS: Final = 24
"""Of all clients together; they are started when there is something for them to do."""
CLIENTS: Final = 8
"""Clients whose connections are kept open; of more, the least recently used make theirs anew."""
_REMEMBERED: Final = 1_000
_PAUSE: Final = 1.0

Job = tuple[Destination, Failure]


class EnvelopeSender(Sender):
    """Sends envelopes. Their order is not kept.

    Threads take turns: one waits in the store for the next envelope, sends it, and meanwhile
    another one waits. So there is no queue between the store and the threads, and what is not
    being sent is in the store, within its bounds.
    """

    kind: ClassVar[ItemKind] = "envelope"

    def __init__(self, store: Store, counters: Counters) -> None:
        super().__init__(store, counters)
        self._turn = Lock()
        """Held by the one thread that waits for the next envelope."""
        self._lock = Lock()
        """Guards what follows, and the destinations. It may be held while the store's is taken."""
        self._destinations: OrderedDict[bytes, Destination] = OrderedDict()
        self._threads: list[Thread] = []
        self._waiting = 0
        self._put_back: OrderedDict[int, None] = OrderedDict()
        """Ids of envelopes that were put back, so that the next try counts as a retry."""
        self._flushes = store.flushes
        self._retried = False
        """Whether the last envelope was one on which a server had failed."""

    def start(self) -> None:
        """Start to send."""
        with self._lock:
            self._start_thread()

    def _join(self, timeout: float) -> bool:
        end = time.monotonic() + timeout
        for thread in self._threads:
            thread.join(max(0.0, end - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    @property
    def failing(self) -> str:
        """Why envelopes can't be sent at present, to the first that fails; empty if none does."""
        with self._lock:
            reasons = (one.failing for one in self._destinations.values())
            return next(filter(None, reasons), "")

    def _close(self) -> None:
        with self._lock:
            for destination in self._destinations.values():
                destination.poster.close()

    # Taking turns.

    def _start_thread(self) -> None:
        name = f"taskobs-envelopes-{len(self._threads)}"
        thread = Thread(target=self._run, name=name, daemon=True)
        thread.start()
        self._threads.append(thread)
        self._waiting += 1

    def _run(self) -> None:
        while (job := self._take_turn()) is not None:
            try:
                self._send(*job)
            except Exception:  # noqa: BLE001  # a thread that ends would end all telemetry
                _log.exception("taskobs relay: envelope export failed")
            with self._lock:
                self._waiting += 1

    def _take_turn(self) -> Job | None:
        """Wait for the turn, and then for an envelope to send; None at the end."""
        with self._turn:
            job = self._next_job()
            with self._lock:
                self._waiting -= 1
                # Another one has to wait for the next envelope while this one is being sent.
                if job and not self._waiting and len(self._threads) < THREADS:
                    with suppress(RuntimeError):  # a tight RLIMIT_NPROC: it goes on with fewer
                        self._start_thread()
            return job

    def _next_job(self) -> Job | None:
        while not self._over():
            try:
                job = self._look_for_job()
            except Exception:  # noqa: BLE001  # a thread that ends would end all telemetry
                _log.exception("taskobs relay: envelope export failed")
                self._store.pause(_PAUSE, ignore_flush=True)
                continue
            if job is not None:
                return job
        return None

    def _look_for_job(self) -> Job | None:
        """Return what may be sent now, or wait for it; None when something has changed."""
        # Read before all that may change with one, so that none is missed.
        signal = self._store.signals("envelope")
        if self._over():
            return None
        with self._lock:
            wait = self._resume()
        # New envelopes and retries alternate: neither holds up the other, however many there are.
        if self._retried and (job := self._new(signal, 0.0)):
            return job
        return self._retry() or self._new(signal, wait)

    def _retry(self) -> Job | None:
        with self._lock:
            for destination in self._destinations.values():
                if failure := destination.due():
                    self._retried = True
                    return self._begin(destination, failure, retry=True)
        return None

    def _new(self, signal: int, wait: float) -> Job | None:
        for one in self._store.take("envelope", 1, 1, 0.0, signal=signal, timeout=wait):
            self._retried = False
            return self._first_try(one)
        return None

    def _resume(self) -> float:
        """Hold or release each destination; return the seconds until that has to be done again."""
        flushed, self._flushes = self._flushes != self._store.flushes, self._store.flushes
        for destination in self._destinations.values():
            if flushed:
                destination.flush()
            self._hold_or_release(destination)
        times = [destination.next_at for destination in self._destinations.values()]
        return max(0.0, min(times, default=math.inf) - time.monotonic())

    def _first_try(self, one: Stored) -> Job | None:
        try:
            with self._lock:
                destination = self._destination(one.item.resource_blob)
                retry = one.id in self._put_back
                return self._begin(destination, Failure(0.0, one.id, one), retry=retry)
        except Exception as error:  # noqa: BLE001  # whatever is wrong with a DSN and options
            detail = str(error) if isinstance(error, DsnError) else type(error).__name__
            self._give_up([one], MALFORMED, detail)
            return None

    def _begin(self, destination: Destination, failure: Failure, *, retry: bool) -> Job:
        destination.in_flight += 1
        self._hold_or_release(destination)
        if retry:
            self._retrying([failure.stored])
        return destination, failure

    def _hold_or_release(self, destination: Destination) -> None:
        if destination.ready:
            self._store.release(destination.key)
        else:
            self._store.hold(destination.key)

    def _destination(self, key: bytes) -> Destination:
        found = self._destinations.get(key)
        if found is None:
            client: Any = frames.unpack(key)
            poster = SentryPoster(client["dsn"], client["options"], connections=WINDOW)
            found = self._destinations[key] = Destination(key, poster)
            self._forget_idle()
        self._destinations.move_to_end(key)
        return found

    def _forget_idle(self) -> None:
        """Close the connections of those least in use, as long as there are too many."""
        *others, _ = self._destinations.values()
        for destination in others:
            if len(self._destinations) <= CLIENTS:
                return
            if destination.idle:
                del self._destinations[destination.key]
                self._store.release(destination.key)
                destination.poster.close()

    # Sending.

    def _send(self, destination: Destination, failure: Failure) -> None:
        begun = time.monotonic()
        one = failure.stored
        try:
            result = destination.poster.send(one.item.payload)
        except Exception as error:  # noqa: BLE001  # a thread that ends would end all telemetry
            _log.exception("taskobs relay: envelope export failed")
            result = ExportResult(ExportStatus.DROP, BROKEN, type(error).__name__)
        with self._lock:
            destination.in_flight -= 1
            given_up, unsent = self._judge(destination, failure, result, begun)
            # Before it is put back: else it would be taken again at once, in spite of a pause.
            self._hold_or_release(destination)
            waits = destination.next_at < math.inf
            self._forget_idle()  # one that was busy when there were too many
        if result.status is ExportStatus.SUCCESS:
            self._exported([one], 0, "", "")
        self._give_up(given_up, result.reason, result.detail)
        self._return(unsent)
        if waits:
            self._store.interrupt("envelope")  # for the time of the next try

    def _judge(
        self, destination: Destination, failure: Failure, result: ExportResult, begun: float
    ) -> tuple[list[Stored], list[Stored]]:
        """Note a result; return what is to be given up, and what goes back to the store."""
        longest = STOPPING_WAIT if self._stopping.is_set() else math.inf
        match result.status:
            case ExportStatus.SUCCESS:
                destination.succeeded()
            case ExportStatus.RETRY:
                destination.unavailable(result, begun, longest)
                return [], [failure.stored]
            case ExportStatus.FAILED:
                failure.reason = result.text
                try:
                    return [one.stored for one in destination.failed_on(failure, longest)], []
                except ServerFailingError:
                    destination.unavailable(result, begun, longest)
                    return [], [failure.stored]
            case _:
                return [failure.stored], []
        return [], []

    def _return(self, unsent: list[Stored]) -> None:
        """Have the store keep, and give again, what could not be sent now."""
        for one in self._without_old(unsent):
            with self._lock:
                self._put_back[one.id] = None
                if len(self._put_back) > _REMEMBERED:
                    self._put_back.popitem(last=False)
            self._store.put_back([one])
