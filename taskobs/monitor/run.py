"""Runs the monitor: polls the queues, and exports what it finds."""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Final

from celery import Celery

from taskobs.celery.queues.reader import BrokerError, QueueReader
from taskobs.celery.queues.readings import nothing_known
from taskobs.metrics.export_variables import export_interval
from taskobs.metrics.families import Family
from taskobs.metrics.prometheus.exposition import render, require_extra
from taskobs.metrics.prometheus.server import Page, PageServer
from taskobs.monitor.latest import Latest, as_json
from taskobs.monitor.progress import Progress
from taskobs.monitor.series import families_of
from taskobs.otel.export.metrics import OtlpSender, unchanging
from taskobs.otel.resource import resource_of, with_instance
from taskobs.session.session import current_settings

_log: Final = logging.getLogger("taskobs")
_LIFETIMES: Final = 3
_LEAST_LIFETIME: Final = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What is given on the command line."""

    interval: float
    """Seconds between two polls."""
    port: int | None = None
    address: str = "127.0.0.1"


class NothingToExport(Exception):  # noqa: N818  # no error of ours: something is to be given
    """There is neither a port nor an endpoint; the message says what to give."""


class Monitor:
    """Polls the queues of an app, and exports what it finds."""

    def __init__(self, app: Celery, reader: QueueReader, options: Options) -> None:
        self._app = app
        self._reader = reader
        self._options = options
        lifetime = max(_LIFETIMES * options.interval, _LEAST_LIFETIME)
        self._latest = Latest(nothing_known(reader.names), lifetime=lifetime)
        self._progress = Progress(reader.broker)

    def run(self) -> None:
        """Run until an exception such as ``KeyboardInterrupt`` ends it.

        Raises:
            NothingToExport: neither a port nor an endpoint is given.
            MissingExtraError: what serves or sends is not installed.
            ServeError: the port can't be listened on.
        """
        with ExitStack() as stack:
            stack.callback(self._reader.close)
            server, sender = self._server(stack), self._sender()
            self._announce(server, sender)
            self.poll()
            if sender is not None:
                stack.callback(sender.stop, current_settings().shutdown_timeout)
                sender.start()
            while True:
                time.sleep(self._options.interval)
                self.poll()

    def poll(self) -> None:
        """Poll once; an outage of the broker is logged."""
        try:
            reading = self._reader.read()
        except BrokerError as error:
            self._latest.fail()
            self._progress.failed(error)
            return
        self._latest.put(reading, nothing_known(self._reader.names))
        self._progress.read(reading)

    def families(self) -> list[Family]:
        """Return the metrics of the latest poll."""
        return families_of(self._latest.reading, connected=self._latest.connected)

    def pages(self) -> dict[str, Callable[[str], Page]]:
        """Return what is served over HTTP."""

        def metrics(accept: str) -> Page:
            return Page(*render(self.families(), accept))

        def queues(_: str) -> Page:
            return Page(as_json(self._latest.reading).encode(), "application/json")

        return {"/metrics": metrics, "/queues": queues}

    def _server(self, stack: ExitStack) -> PageServer | None:
        options = self._options
        if options.port is None:
            return None
        require_extra("taskobs monitor --port")
        server = PageServer(self.pages(), address=options.address, port=options.port)
        server.start()
        stack.callback(server.close)
        return server

    def _sender(self) -> OtlpSender | None:
        settings = current_settings()
        if settings.metrics_endpoint is None:
            return None
        resource = resource_of(settings, lambda: self._app.main)
        # One instance on each host, also after a restart.
        resource = with_instance(resource, f"monitor@{socket.gethostname()}")
        return OtlpSender(
            settings,
            lambda: (unchanging(self.families()), resource),
            interval=export_interval(self._options.interval),
            who="taskobs monitor",
        )

    def _announce(self, server: PageServer | None, sender: OtlpSender | None) -> None:
        ways = [*_ways(server, sender)]
        if not ways:
            raise NothingToExport(
                "nothing is exported: give --port or TASKOBS_METRICS_PORT for Prometheus, "
                "OTEL_EXPORTER_OTLP_ENDPOINT for OTLP, or --once or --watch for a table"
            )
        _log.info(
            "taskobs monitor: %s every %g s: %s",
            *(self._reader.broker, self._options.interval, ", ".join(ways)),
        )


def _ways(server: PageServer | None, sender: OtlpSender | None) -> Iterator[str]:
    if server is not None:
        yield f"{server.url}/metrics and {server.url}/queues"
    if sender is not None:
        yield f"OTLP to {current_settings().shown_metrics_endpoint}"
