"""Exports metrics from the process that counts: a worker's without a relay, and a producer's."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from taskobs.config.settings import Settings
from taskobs.internal import forksafe
from taskobs.internal.forksafe import ForkStep
from taskobs.observers.own_traffic import suppressed
from taskobs.session.metrics.worker_metrics import WorkerMetrics

if TYPE_CHECKING:
    from taskobs.metrics.prometheus.serving import MetricsServer
    from taskobs.protocol.shared_memory import SharedMemory
    from taskobs.relay.metrics.exporter import MetricsSender

_log: Final = logging.getLogger("taskobs")
_STOP: Final = 0.5


class DirectMetrics:
    """Sends over OTLP, and serving to Prometheus, from threads that ``start`` starts."""

    def __init__(self, settings: Settings, metrics: WorkerMetrics) -> None:
        self._settings = settings
        self._metrics = metrics
        self._sender: MetricsSender | None = None
        self._server: MetricsServer | None = None
        self._started = False

    def start(self, *, serving: bool, memory: SharedMemory | None = None) -> None:
        """Start to send, and to serve if this is a worker; a second call does nothing.

        ``memory`` has what a relay that was given up has sent already.
        """
        if self._started:
            return
        self._started = True
        forksafe.add(self, ForkStep.EXPORT)
        if self._settings.metrics_endpoint is not None:
            self._send(memory)
        if serving and self._settings.metrics_port is not None:
            self._serve(self._settings.metrics_port)

    def _send(self, memory: SharedMemory | None) -> None:
        # Imported before the thread runs, so that no fork finds it in the middle of an import.
        from taskobs.relay.metrics.collected import Collected
        from taskobs.relay.metrics.exporter import start_metrics

        def collect() -> Collected:
            return Collected(*self._metrics.groups())

        # Instrumented libraries make no spans of the requests.
        options = exporter_options(self._settings)
        self._sender = start_metrics(collect, options, "taskobs", memory, suppressed)

    def _serve(self, port: int) -> None:
        from taskobs.metrics.prometheus.serving import MetricsServer

        address = self._settings.metrics_address
        self._server = MetricsServer(self._metrics.families, address=address, port=port)
        self._server.start()

    def flushes(self) -> list[Callable[[], object]]:
        """Return the calls that send what was counted last; each may block."""
        return [] if self._sender is None else [self._sender.send]

    def close(self) -> None:
        """Stop sending and serving."""
        forksafe.remove(self)
        sender, self._sender = self._sender, None
        server, self._server = self._server, None
        self._started = False
        if sender is not None:
            sender.stop(_STOP)
        if server is not None:
            server.close()

    def after_fork(self) -> None:
        """In a forked child: the threads are the parent's, and so is the port."""
        server, self._server, self._sender = self._server, None, None
        self._started = False
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
