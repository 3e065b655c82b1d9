"""Log records of a process that has no relay: batches on a thread, through the stock exporter."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any, Final

from opentelemetry.sdk.resources import Resource

from taskobs.config.settings import Settings
from taskobs.errors import MissingExtraError
from taskobs.internal import forksafe
from taskobs.internal.forksafe import ForkStep
from taskobs.internal.import_lock import import_locked, watch_forks
from taskobs.internal.outage import LibraryLog, Outage
from taskobs.observers.log_capture import quiet
from taskobs.observers.own_traffic import suppressed
from taskobs.otel._sdk_compat import GRPC_IMPORTS
from taskobs.otel.export.secrets import secrets_of
from taskobs.protocol.log_decoder import LogDecoder
from taskobs.protocol.validation import MalformedError

if TYPE_CHECKING:
    from taskobs.protocol.log_decoder import DecodedLog

_log: Final = logging.getLogger("taskobs")
_GROUP: Final = "opentelemetry_logs_exporter"
"""The entry points of log exporters, whose modules have no public name (seen in 1.28 to 1.45)."""
_HTTP_IMPORTS: Final = ("requests", "netrc", "encodings.idna", "importlib.readers")
MOST: Final = 4_096
"""Records that wait; later ones are dropped and counted."""
BATCH: Final = 512
DELAY: Final = 1.0
"""Seconds from a record to its export."""
_IDLE: Final = 30
"""Delays without a record after which the thread ends; the next record starts another one."""
_FULL: Final = "more was logged than could be sent"


class LogExporterFactory:
    """Makes the exporter of the settings' protocol; its modules are imported with the first one.

    Raises:
        MissingExtraError: the protocol is ``grpc`` and its exporter is not installed.
    """

    def __init__(self, settings: Settings) -> None:
        grpc = settings.logs_protocol == "grpc"
        name = f"otlp_proto_{'grpc' if grpc else 'http'}"
        self._found = next(iter(entry_points(group=_GROUP, name=name)), None)
        if self._found is None:
            raise MissingExtraError("logs='otlp' over gRPC", "grpc")
        self._beside = GRPC_IMPORTS if grpc else _HTTP_IMPORTS
        self.destination = settings.shown_logs_endpoint or ""
        self._secrets = secrets_of(settings)
        self._options: dict[str, Any] = {}
        if settings.given["otlp_endpoint"] == "argument":
            self._options["endpoint"] = settings.logs_endpoint
        if settings.given["otlp_headers"] == "argument":
            self._options["headers"] = dict(settings.otlp_headers or {})
        watch_forks()

    def prepare(self) -> Any:  # noqa: ANN401  # a class, of which there are two
        """Import the modules: in the parent, so that its children share their memory."""
        assert self._found is not None  # noqa: S101  # the constructor has refused that
        module = import_locked(self._found.module, *self._beside)
        return getattr(module, self._found.attr)

    def make(self) -> Any:  # noqa: ANN401  # an exporter of the SDK's
        """Make one. It reads the other options from ``OTEL_EXPORTER_OTLP_*`` itself."""
        return self.prepare()(**self._options)

    def outage(self) -> tuple[Outage, LibraryLog]:
        """Return what logs that exports fail, and what takes the exporter's own lines."""
        outage = Outage(_log, f"taskobs: log export to {self.destination}")
        loggers = [self._found.module] if self._found is not None else []
        return outage, LibraryLog([*loggers, *_LOGGERS], outage.began, self._secrets)


_LOGGERS: Final = ("opentelemetry.exporter.otlp.proto.grpc.exporter",)


class DirectLogs:
    """Exports packed records, from a thread that the first one starts.

    ``put`` may be called by any thread, greenlet or signal handler, and never waits. A forked child
    begins without a thread, an exporter or a record: those of its parent are its parent's.

    Records wait until ``begin`` is called, or a ``flush``: a worker's first ones go to its relay.
    """

    def __init__(self, factory: LogExporterFactory, resource: Callable[[], Resource]) -> None:
        self._factory, self._resource = factory, resource
        self._outage, self._library_log = factory.outage()
        self._begun = False
        self._begin()
        forksafe.add(self, ForkStep.EXPORT)

    def _begin(self) -> None:
        self._waiting: deque[bytes] = deque()
        self._dropped = 0
        self._exporting = threading.Lock()
        self._wake = threading.Event()
        self._exporter: Any = None
        self._closed = False
        # Whoever takes the token starts the thread; a list's ``pop`` is atomic, and no lock is
        # held that a soft time limit's signal could leave taken.
        self._start_tokens: list[object] = [None]

    def after_fork(self) -> None:
        """In a forked child: start anew."""
        self._begin()

    def begin(self, *, now: bool = True) -> None:
        """Export from now on; unless ``now`` is false, import the exporter before anything else.

        That can't be done as late as at the process's end: the SDK's module uses an executor, which
        the interpreter refuses then (seen in 1.45). And it is done before the first run and fork.
        """
        if now:
            self._factory.prepare()
        self._begun = True
        if self._waiting and self._start_tokens:
            self._start()

    def put(self, payload: bytes) -> None:
        """Take a record; without room it is dropped and counted."""
        if self._closed:
            return
        if len(self._waiting) >= MOST:
            self._dropped += 1
            return
        self._waiting.append(payload)
        if self._begun and self._start_tokens:
            self._start()

    def _start(self) -> None:
        try:
            token = self._start_tokens.pop()
        except IndexError:  # another thread was faster
            return
        try:
            threading.Thread(target=self._run, name="taskobs-logs", daemon=True).start()
        except RuntimeError:  # no thread can be had, or the interpreter is shutting down
            self._start_tokens.append(token)
        except BaseException:  # a time limit's signal: perhaps two threads, rather than none
            self._start_tokens.append(token)
            raise

    def _run(self) -> None:
        tokens, idle = self._start_tokens, 0
        try:
            while not self._closed and idle < _IDLE:
                self._wake.wait(DELAY)
                self._wake.clear()
                idle = 0 if self._waiting else idle + 1
                self.flush()
        finally:
            tokens.append(None)
        if self._waiting and not self._closed:  # put before the token was there
            self._start()

    def take(self) -> list[bytes]:
        """Remove and return what waits: a relay sends it."""
        found: list[bytes] = []
        while (payload := self._next()) is not None:
            found.append(payload)
        return found

    def _next(self) -> bytes | None:
        try:
            return self._waiting.popleft()
        except IndexError:
            return None

    def flush(self) -> None:
        """Export what waits; blocks as long as the exporter does."""
        with self._exporting, quiet(), suppressed():
            dropped, self._dropped = self._dropped, 0
            if dropped:
                self._outage.began(_FULL)
                self._outage.lost(dropped)
            while batch := self._batch():
                self._export(batch)

    def _batch(self) -> list[bytes]:
        batch: list[bytes] = []
        while len(batch) < BATCH and (payload := self._next()) is not None:
            batch.append(payload)
        return batch

    def _export(self, batch: Sequence[bytes]) -> None:
        logs = self._decoded(batch)
        if not logs:
            return
        try:
            exporter = self._exporter = self._exporter or self._factory.make()
            with self._library_log:
                done = exporter.export(logs).name == "SUCCESS"
        except Exception as error:  # noqa: BLE001  # whatever an exporter may raise
            self._outage.began(type(error).__name__)
            done = False
        if done:
            self._outage.ended()
        else:
            self._outage.began("the exporter has failed")  # if its log has not said why
            self._outage.lost(len(logs))

    def _decoded(self, batch: Sequence[bytes]) -> list[DecodedLog]:
        decoder, resource = LogDecoder(), self._resource()
        found: list[DecodedLog] = []
        for payload in batch:
            try:
                found.append(decoder.log(payload, resource))
            except MalformedError:  # noqa: PERF203  # free since Python 3.11
                self._outage.lost(1)
        return found

    def shutdown(self) -> None:
        """Export what waits, and stop; blocks as long as the exporter does."""
        forksafe.remove(self)
        self.flush()
        self._closed = True
        self._wake.set()
        exporter, self._exporter = self._exporter, None
        with quiet():
            if exporter is not None:
                exporter.shutdown()
            self._library_log.close()
            self._outage.closed()
