"""Exports metrics from the process that counts: a worker's without a relay, and a producer's."""

from __future__ import annotations

import logging
from collections.abc import Callable
from threading import RLock
from typing import TYPE_CHECKING, Final

from taskobs.config.settings import Settings
from taskobs.internal import forksafe
from taskobs.internal.forksafe import ForkStep
from taskobs.metrics.metrics_frames import OWN, split
from taskobs.observers.own_traffic import suppressed
from taskobs.session.metrics.worker_metrics import WorkerMetrics

if TYPE_CHECKING:
    from taskobs.metrics.prometheus.serving import MetricsServer
    from taskobs.protocol.shared_memory import SharedMemory
    from taskobs.relay.metrics.accepted import AcceptedSums
    from taskobs.relay.metrics.exporter import MetricsSender
    from taskobs.relay.metrics.reader_senders import ReaderSenders

_log: Final = logging.getLogger("taskobs")
_STOP: Final = 0.5


class DirectMetrics:
    """Sends over OTLP, and serving to Prometheus, from threads that ``start`` starts."""

    def __init__(self, settings: Settings, metrics: WorkerMetrics) -> None:
        self._settings = settings
        self._metrics = metrics
        self._sender: MetricsSender | None = None
        self._server: MetricsServer | None = None
        self._readers: ReaderSenders | None = None
        self._accepted: AcceptedSums | None = None
        self._started = False
        self._taking = RLock()

    def start(self, *, serving: bool, memory: SharedMemory | None = None) -> None:
        """Start to send, and to serve if this is a worker; a second call does nothing.

        ``memory`` has what a relay that was given up has sent already.
        """
        if self._started:
            return
        self._started = True
        forksafe.add(self, ForkStep.EXPORT)
        if self._settings.metrics_endpoint is not None:
            self._send(self._accepted_in(memory))
        if serving and self._settings.metrics_port is not None:
            self._serve(self._settings.metrics_port)

    def _accepted_in(self, memory: SharedMemory | None) -> AcceptedSums | None:
        if self._accepted is None and memory is not None:
            from taskobs.relay.metrics.accepted import AcceptedSums

            self._accepted = AcceptedSums(memory)
        return self._accepted

    def _send(self, accepted: AcceptedSums | None) -> None:
        # Imported before the thread runs, so that no fork finds it in the middle of an import.
        from taskobs.relay.metrics.collected import Collected
        from taskobs.relay.metrics.exporter import start_metrics

        def collect() -> Collected:
            return Collected(*self._metrics.groups())

        # Instrumented libraries make no spans of the requests.
        options = exporter_options(self._settings)
        own = None if accepted is None else accepted.of(OWN)
        self._sender = start_metrics(collect, options, "taskobs", own, suppressed)

    def send_for_readers(self, memory: SharedMemory | None) -> None:
        """Send what is counted for readers of the app's as it is now; call it again for more.

        That is for a relay that was given up: without one, the readers export by themselves.
        """
        if not self._metrics.shared.readers():
            return
        # A flush may come from any thread of the app's: two would start two senders of one reader.
        with self._taking:
            if self._readers is None:
                from taskobs.relay.metrics.reader_senders import ReaderSenders

                forksafe.add(self, ForkStep.EXPORT)
                self._readers = ReaderSenders(self._accepted_in(memory), "taskobs", suppressed)
            for payload in self._metrics.packed_for_readers():
                self._readers.take(*split(payload))

    def _serve(self, port: int) -> None:
        from taskobs.metrics.prometheus.serving import MetricsServer

        address = self._settings.metrics_address
        self._server = MetricsServer(self._metrics.families, address=address, port=port)
        self._server.start()

    def flushes(self) -> list[Callable[[], object]]:
        """Return the calls that send what was counted last; each may block."""
        own = [] if self._sender is None else [self._sender.send]
        return [*own, *(() if self._readers is None else self._readers.sends)]

    def close(self) -> None:
        """Stop sending and serving."""
        forksafe.remove(self)
        sender, self._sender = self._sender, None
        server, self._server = self._server, None
        readers, self._readers = self._readers, None
        self._started, self._accepted = False, None
        if sender is not None:
            sender.stop(_STOP)
        if readers is not None:
            readers.stop(_STOP)
        if server is not None:
            server.close()

    def after_fork(self) -> None:
        """In a forked child: the threads are the parent's, and so is the port."""
        server, self._server, self._sender = self._server, None, None
        self._started, self._readers, self._accepted = False, None, None
        self._taking = RLock()
        if server is not None:
            server.abandon()


def exporter_options(settings: Settings) -> dict[str, object]:
    """Return how telemetry is exported; what is no argument, exporters read from variables."""
    found: dict[str, object] = {"protocol": settings.otlp_protocol}
    if settings.given["otlp_endpoint"] == "argument":
        found["endpoint"] = settings.traces_endpoint
    if settings.given["otlp_headers"] == "argument":
        found["headers"] = dict(settings.otlp_headers or {})
    return found
