"""The relay process: it builds its parts, runs them, and stops them in order."""

from __future__ import annotations

import logging
import os
import socket
from functools import partial
from typing import TYPE_CHECKING, Final

from taskobs.metrics import metrics_frames
from taskobs.protocol.shared_memory import SharedMemory
from taskobs.protocol.span_decoder import SpanDecoder
from taskobs.relay.agent.control import ControlSocket
from taskobs.relay.agent.event_loop import EventLoop
from taskobs.relay.agent.lanes import Lanes
from taskobs.relay.agent.ring_reader import RingReaders
from taskobs.relay.agent.route_table import RouteTable
from taskobs.relay.agent.router import FrameRouter
from taskobs.relay.agent.settings import RelaySettings
from taskobs.relay.agent.shutdown import ShutdownPolicy, Worker
from taskobs.relay.agent.wakeup_pipe import WakeupPipe
from taskobs.relay.counters import Counters
from taskobs.relay.export.envelopes import EnvelopeSender
from taskobs.relay.export.otlp import SpanSender, quieten
from taskobs.relay.export.sender import Sender
from taskobs.relay.metrics.accepted import AcceptedSums
from taskobs.relay.metrics.collected import WorkerMetrics
from taskobs.relay.metrics.exporter import MetricsSender, start_metrics
from taskobs.relay.metrics.reader_senders import ReaderSenders
from taskobs.relay.storage.base import Store
from taskobs.relay.storage.items import ITEM_KINDS
from taskobs.relay.storage.opening import open_store
from taskobs.relay.tracking.open_spans import OpenSpanRegistry

if TYPE_CHECKING:
    from taskobs.metrics.prometheus.serving import MetricsServer

_log: Final = logging.getLogger("taskobs.relay")
_LAST_SENDER: Final = 0.5
_LAST_METRICS: Final = 2.0
"""Seconds that the last export of metrics may take."""


class Relay:
    """One worker's relay. ``run`` blocks until the worker has ended and all is sent or dropped."""

    def __init__(
        self,
        listener: socket.socket,
        settings: RelaySettings,
        shared: SharedMemory | None = None,
        control: ControlSocket | None = None,
    ) -> None:
        """Open the store.

        Raises:
            ImportError: the exporter of the protocol is not installed.
            ValueError: a variable that the exporter reads has a value that it can't use.
        """
        quieten()
        self._settings = settings
        self._shared = shared
        self._counters = counters = Counters()
        self._wakeup_pipe = WakeupPipe()
        self._exporter = exporter = {
            "protocol": settings.protocol,
            "endpoint": settings.endpoint,
            "headers": settings.headers,
        }
        self._store = open_store(
            settings.spool,
            settings.worker,
            counters,
            self._wakeup_pipe.released,
            worker_pid=settings.parent,
        )
        self._main_senders = (
            SpanSender(self._store, counters, exporter),
            EnvelopeSender(self._store, counters),
        )
        self._lanes = Lanes(self._store, counters, self._lane_store)
        routes = RouteTable(self._lanes, counters)
        self._open_spans = OpenSpanRegistry(counters, parent=settings.parent)
        self._worker_metrics = WorkerMetrics(counters, lambda: self._open_spans.resource_blob)
        self._accepted = None if shared is None else AcceptedSums(shared)
        self._readers = ReaderSenders(self._accepted)
        self._router = FrameRouter(
            store=self._store,
            open_spans=self._open_spans,
            counters=counters,
            on_metrics=self._take_metrics,
            status=self.status,
            routes=routes,
            keep=settings.keep,
        )
        self._event_loop = EventLoop(
            listener,
            worker=Worker(settings.parent),
            router=self._router,
            slots=RingReaders(
                shared, router=self._router, open_spans=self._open_spans, counters=counters
            ),
            open_spans=self._open_spans,
            store=self._store,
            counters=counters,
            wakeup_pipe=self._wakeup_pipe,
            shutdown=ShutdownPolicy(settings.grace),
            control=control,
        )
        self._control = control
        self._metrics: MetricsSender | None = None
        self._server: MetricsServer | None = None
        for kind in ITEM_KINDS:
            counters.gauge("pending", partial(routes.waiting, kind), kind)
        counters.gauge("parked", lambda: self._store.parked, "envelope")
        counters.gauge("open", lambda: self._open_spans.open, "span")
        counters.gauge("clients", lambda: self._open_spans.processes)

    def _lane_store(self, name: str) -> Store:
        """Return the store of a lane: on disk if the main store is, in a directory of its own."""
        settings = self._settings
        spool = None
        if self._store.directory is not None:
            spool = {**(settings.spool or {}), "directory": str(self._store.directory / name)}
        return open_store(
            spool,
            settings.worker,
            self._counters,
            self._wakeup_pipe.released,
            worker_pid=settings.parent,
        )

    @property
    def _senders(self) -> tuple[Sender, ...]:
        return *self._main_senders, *(lane.sender for lane in self._lanes.all)

    def status(self) -> dict[str, object]:
        """Return what ``taskobs status`` shows: the worker, this process and the counters."""
        failing: dict[str, str] = {}
        for sender in filter(lambda sender: sender.failing, self._senders):
            reasons = filter(None, (failing.get(sender.kind), sender.failing))
            failing[sender.kind] = "; ".join(reasons)
        return {
            "worker": self._settings.worker,
            "service": self._service(),
            "pid": os.getpid(),
            "failing": failing,
            "metrics": "" if self._server is None else self._server.url,
            **self._counters.snapshot(),
        }

    def _service(self) -> str:
        blob = self._open_spans.resource_blob
        named = (
            None if blob is None else SpanDecoder().resource(blob).attributes.get("service.name")
        )
        return str(named or self._settings.service)

    def terminate(self) -> None:
        """Shut down soon; see ``EventLoop.terminate``."""
        self._event_loop.terminate()

    def start(self) -> None:
        """Start the threads that export.

        Raises:
            OSError: the system allows no more threads.
        """
        # Before the first frame is read: a client sends again what an earlier relay did not
        # acknowledge, and these keys tell which of it has been taken already.
        self._router.restore()
        try:
            for sender in self._main_senders:
                sender.start()
            if self._settings.logs is not None:
                self._lanes.add_logs(self._settings.logs)
            accepted = None if self._accepted is None else self._accepted.of(metrics_frames.OWN)
            self._metrics = start_metrics(
                self._worker_metrics.collect, self._exporter, memory=accepted
            )
            self._serve()
        except RuntimeError as error:  # what `Thread.start` raises at a limit of RLIMIT_NPROC
            raise OSError(f"the system allows no more threads: {error}") from error

    def _take_metrics(self, payload: bytes) -> None:
        number, rest = metrics_frames.split(payload)
        if number == metrics_frames.OWN:
            self._worker_metrics.take(rest)
        else:
            self._readers.take(number, rest)

    def _serve(self) -> None:
        if self._settings.serve is None:
            return
        from taskobs.metrics.prometheus.serving import MetricsServer

        where, shared = self._settings.serve, self._shared
        self._server = MetricsServer(
            lambda: self._worker_metrics.collect().families,
            address=str(where.get("address")),
            port=int(str(where.get("port"))),
            earlier=0 if shared is None else shared.metrics_port,
        )
        self._server.start()
        if shared is not None:
            shared.note_metrics_port(self._server.port)

    def answer(self) -> None:
        """Tell the launcher that the relay is ready."""
        if self._control is not None:
            self._control.answer()

    def run(self) -> None:
        """Serve until the worker has ended and all is sent or dropped."""
        self._event_loop.run()
        # All are stopped before one is waited for, so that they end at the same time.
        senders = self._senders
        for sender in senders:
            sender.stop(0.0)
        for sender in senders:
            sender.join(_LAST_SENDER)
        # After the senders: when they stop, they count what was not sent, and this exports it.
        if self._metrics is not None:
            self._metrics.stop(_LAST_METRICS)
        self._readers.stop(_LAST_METRICS)
        if self._server is not None:
            self._server.close()
        for store in self._lanes.stores:
            store.close()
        self._wakeup_pipe.close()
        if losses := self._counters.losses():
            _log.warning("taskobs relay: ending; dropped in all: %s", losses)
