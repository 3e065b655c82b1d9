"""Sends metric families over OTLP from this process, with OpenTelemetry's exporters."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from importlib import import_module
from importlib.util import find_spec
from threading import Event, Lock, Thread
from typing import Any, Final

from opentelemetry.sdk.metrics.export import MetricExporter, MetricExportResult
from opentelemetry.sdk.resources import Resource

from taskobs.config.settings import Settings
from taskobs.errors import MissingExtraError
from taskobs.internal.causes import describe, innermost
from taskobs.internal.outage import LibraryLog
from taskobs.metrics.changes import Baseline
from taskobs.metrics.data_points import metrics_data
from taskobs.metrics.export_variables import wants_delta
from taskobs.metrics.families import Family, Groups
from taskobs.metrics.moment import Moment
from taskobs.observers.own_traffic import suppressed
from taskobs.otel.export.secrets import secrets_of

_log: Final = logging.getLogger("taskobs")
_HTTP: Final = "opentelemetry.exporter.otlp.proto.http.metric_exporter"
_GRPC: Final = "opentelemetry.exporter.otlp.proto.grpc.metric_exporter"
_LOGGERS: Final = (_HTTP, "opentelemetry.exporter.otlp.proto.grpc.exporter")
"""Where the exporters log each attempt that fails, over HTTP with the URL, which may hold a key."""


class OtlpSender:
    """Sends at an interval, from a thread of its own: a backend that hangs delays nothing else.

    ``collect`` is called on that thread; it returns what to send and the resource that this is of.
    """

    def __init__(
        self,
        settings: Settings,
        collect: Callable[[], tuple[Groups, Resource]],
        *,
        interval: float,
        who: str = "taskobs",
    ) -> None:
        """Make the exporter; ``who`` begins each line of the log.

        Raises:
            MissingExtraError: it is one for gRPC, which is not installed.
        """
        self._exporter: Any = _exporter(settings)  # its methods' types differ between releases
        self._collect = collect
        self._interval = interval
        self._who = who
        self._baseline = Baseline() if wants_delta() else None
        self._ended = Event()
        self._lock = Lock()
        self._failing = False
        self._reason = ""
        self._library_log = LibraryLog(_LOGGERS, self._note, secrets_of(settings))
        self._thread = Thread(target=self._run, name="taskobs-metrics", daemon=True)

    def start(self) -> None:
        """Start the thread, which sends at once; called once."""
        self._thread.start()

    def stop(self, timeout: float) -> None:
        """Send no more; wait at most ``timeout`` seconds for what is under way."""
        self._ended.set()
        self._thread.join(timeout)

    def send(self) -> bool:
        """Send once, now; tell whether it was accepted."""
        with self._lock:
            groups, resource = self._collect()
            taken_at = Moment()
            data = metrics_data(groups, resource, self._baseline)
            with suppressed():  # instrumented libraries make no spans of this
                accepted = self._export(data)
            if accepted and self._baseline is not None:
                families = [family for _, of in groups for family in of]
                self._baseline.accepted(families, taken_at)
        if accepted == self._failing:
            self._failing = not accepted
            if accepted:
                _log.info("%s: OTLP metrics are accepted again", self._who)
            else:
                _log.warning(
                    "%s: OTLP metrics were not accepted, trying again: %s", self._who, self._reason
                )
        return accepted

    def _export(self, data: object) -> bool:
        self._reason = ""
        try:
            with self._library_log:
                accepted = self._exporter.export(data) is MetricExportResult.SUCCESS
        except OSError as error:
            # Of requests, which the exporter over HTTP raised (seen in 1.28 to 1.38).
            self._note(describe(innermost(error)))
            return False
        self._note("the exporter has failed")  # if its log has not said why
        return accepted

    def _note(self, reason: str) -> None:
        """Keep the first reason: what is logged after it only says that the exporter gives up."""
        self._reason = self._reason or reason

    def _run(self) -> None:
        ended = False
        while not ended:
            try:
                self.send()
            except Exception:  # noqa: BLE001  # whatever an exporter may raise
                _log.exception("%s: OTLP metrics can't be sent", self._who)
            ended = self._ended.wait(self._interval)
        self._exporter.shutdown()
        self._library_log.close()


def unchanging(families: Iterable[Family]) -> Groups:
    """Return families of gauges, which have no beginning."""
    return [(0, [*families])]


def _exporter(settings: Settings) -> MetricExporter:
    """Make an exporter; it reads what is no argument of ``init()`` from the variables itself."""
    grpc = settings.otlp_protocol == "grpc"
    if grpc and not (find_spec("grpc") and find_spec("opentelemetry.exporter.otlp.proto.grpc")):
        raise MissingExtraError("otlp_protocol='grpc'", "grpc")
    options: dict[str, Any] = {}
    if settings.given["otlp_endpoint"] == "argument":
        options["endpoint"] = settings.metrics_endpoint
    if settings.given["otlp_headers"] == "argument":
        headers: Mapping[str, str] = settings.otlp_headers or {}
        options["headers"] = dict(headers)
    made: MetricExporter = import_module(_GRPC if grpc else _HTTP).OTLPMetricExporter(**options)
    return made
