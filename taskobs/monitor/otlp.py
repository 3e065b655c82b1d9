"""Sends metrics over OTLP, with OpenTelemetry's exporters."""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Callable, Iterable
from importlib import import_module
from importlib.util import find_spec
from threading import Event, Thread
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID, uuid5

from opentelemetry.sdk.metrics.export import (
    Gauge,
    Metric,
    MetricExporter,
    MetricExportResult,
    MetricsData,
    NumberDataPoint,
    ResourceMetrics,
    ScopeMetrics,
)
from opentelemetry.sdk.resources import SERVICE_INSTANCE_ID, Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from taskobs import __version__
from taskobs.config.settings import Settings
from taskobs.errors import MissingExtraError
from taskobs.otel.resource import AppName, resource_of
from taskobs.prometheus.families import Family

if TYPE_CHECKING:
    from collections.abc import Mapping

_log: Final = logging.getLogger("taskobs")
_HTTP: Final = "opentelemetry.exporter.otlp.proto.http.metric_exporter"
_GRPC: Final = "opentelemetry.exporter.otlp.proto.grpc.metric_exporter"
_INSTANCES: Final = UUID("4d63009a-8d0f-11ee-aad7-4c796ed8e320")
"""The namespace that OpenTelemetry's conventions give for ``service.instance.id``."""


class OtlpSender:
    """Sends at an interval, from a thread of its own: a backend that hangs delays no poll.

    ``families`` is called on that thread.
    """

    def __init__(
        self,
        settings: Settings,
        app_name: AppName,
        families: Callable[[], Iterable[Family]],
        *,
        interval: float,
    ) -> None:
        """Make the exporter.

        Raises:
            MissingExtraError: it is one for gRPC, which is not installed.
        """
        self._exporter: Any = _exporter(settings)  # its methods' types differ between releases
        self._resource = _with_instance(resource_of(settings, app_name))
        self._families = families
        self._interval = interval
        self._ended = Event()
        self._failing = False
        self._thread = Thread(target=self._run, name="taskobs-monitor-otlp", daemon=True)

    def start(self) -> None:
        """Start the thread, which sends at once; called once."""
        self._thread.start()

    def stop(self, timeout: float) -> None:
        """Send no more; wait at most ``timeout`` seconds for what is under way."""
        self._ended.set()
        self._thread.join(timeout)

    def send(self) -> bool:
        """Send once, now; tell whether it was accepted."""
        data = metrics_data(self._families(), self._resource)
        accepted = self._exporter.export(data) is MetricExportResult.SUCCESS
        if accepted == self._failing:
            self._failing = not accepted
            if accepted:
                _log.info("taskobs monitor: OTLP metrics are accepted again")
            else:
                _log.warning("taskobs monitor: OTLP metrics were not accepted, trying again")
        return accepted

    def _run(self) -> None:
        ended = False
        while not ended:
            try:
                self.send()
            except Exception:  # noqa: BLE001  # whatever an exporter may raise
                _log.exception("taskobs monitor: OTLP metrics can't be sent")
            ended = self._ended.wait(self._interval)
        self._exporter.shutdown()


def metrics_data(families: Iterable[Family], resource: Resource) -> MetricsData:
    """Return gauges as what an exporter of OpenTelemetry takes."""
    now = time.time_ns()
    metrics = [
        Metric(family.name, family.meaning, family.unit, Gauge(_points(family, now)))
        for family in families
        if family.samples
    ]
    scope = InstrumentationScope("taskobs", __version__)
    scoped = ScopeMetrics(scope=scope, metrics=metrics, schema_url="")
    whole = ResourceMetrics(
        resource=resource, scope_metrics=[scoped], schema_url=resource.schema_url
    )
    return MetricsData(resource_metrics=[whole])


def _points(family: Family, now: int) -> list[NumberDataPoint]:
    return [
        NumberDataPoint(
            attributes=dict(labels), start_time_unix_nano=now, time_unix_nano=now, value=value
        )
        for labels, value in family.samples
    ]


def _with_instance(resource: Resource) -> Resource:
    """Return the resource of the monitor: one instance on each host, also after a restart."""
    named = "service.instance.id=" in os.environ.get("OTEL_RESOURCE_ATTRIBUTES", "")
    instance = str(uuid5(_INSTANCES, f"monitor@{socket.gethostname()}"))
    return resource if named else resource.merge(Resource({SERVICE_INSTANCE_ID: instance}))


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
