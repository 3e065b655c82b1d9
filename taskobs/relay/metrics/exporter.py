"""What the relay counts, and the runs of its worker, sent as metrics over OTLP."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping
from threading import TIMEOUT_MAX, Event, Lock, Thread
from typing import Any, Final, Protocol

from opentelemetry.sdk.environment_variables import (
    OTEL_EXPORTER_OTLP_ENDPOINT,
    OTEL_EXPORTER_OTLP_METRICS_ENDPOINT,
    OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE,
    OTEL_METRIC_EXPORT_INTERVAL,
    OTEL_SDK_DISABLED,
)

from taskobs.protocol.span_decoder import SpanDecoder
from taskobs.relay.counters import Counters
from taskobs.relay.export.otlp import GRPC, make_exporter_adapter
from taskobs.relay.export.responses import ExportStatus
from taskobs.relay.metrics.data_points import Snapshot
from taskobs.relay.metrics.run_statistics import RunStatistics

_log = logging.getLogger("taskobs.relay")
OTEL_METRICS_EXPORTER: Final = "OTEL_METRICS_EXPORTER"
INTERVAL: Final = 60.0
"""Seconds between two exports; ``OTEL_METRIC_EXPORT_INTERVAL``, in milliseconds, says otherwise."""
_TRACES_PATH: Final = "/v1/traces"
_METRICS_PATH: Final = "/v1/metrics"


class MetricsSender:
    """Sends metrics now and then, and when it is stopped. ``start`` and ``stop`` are called once.

    ``about`` gives the packed resource of the worker, or None as long as it is not known: then
    nothing is sent. A backend that refuses metrics is not asked again.
    """

    def __init__(
        self,
        counters: Counters,
        runs: RunStatistics,
        exporter: Mapping[str, Any],
        resource_blob: Callable[[], bytes | None],
    ) -> None:
        """Raises what ``make_exporter_adapter`` does."""
        self._snapshot = Snapshot(counters, runs, delta=_wants_delta())
        self._adapter = make_exporter_adapter("METRICS", exporter)
        self._resource_id = resource_blob
        self._lock = Lock()
        self._refused = False
        self._ended = Event()
        self._thread = Thread(target=self._run, name="taskobs-metrics", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self, timeout: float) -> None:
        """Send a last time, and wait for that at most ``timeout`` seconds."""
        self._ended.set()
        self._thread.join(timeout)

    def send(self) -> None:
        """Send once, now."""
        resource_blob = self._resource_id()
        if resource_blob is None or self._refused:
            return
        with self._lock:
            data = self._snapshot.take(SpanDecoder().resource(resource_blob))
            result = self._adapter.send(data)
            accepted = result is not None and result.status is ExportStatus.SUCCESS
            self._snapshot.settle(accepted=accepted)
        if result is None or result.status in {ExportStatus.DROP, ExportStatus.SPLIT}:
            self._refused = True
            why = f"{result.reason} {result.detail}".strip() if result else "nothing was sent"
            _log.warning("taskobs relay: metrics are refused, and not sent any more: %s", why)

    def _run(self) -> None:
        interval = _interval()
        while True:
            ended = self._ended.wait(interval)
            try:
                self.send()
            except Exception:  # noqa: BLE001  # whatever an exporter may raise
                self._refused = True
                _log.exception("taskobs relay: metrics cannot be sent")
            if ended:
                self._adapter.close()
                return


def start_metrics(
    counters: Counters,
    runs: RunStatistics,
    exporter: Mapping[str, Any],
    resource_blob: Callable[[], bytes | None],
) -> Stoppable | None:
    """Start to send metrics, if they are wanted and there is somewhere to send them.

    That is: ``OTEL_METRICS_EXPORTER`` isn't "none", and an endpoint is given in ``exporter`` or
    by a variable. None too, with a warning, when the exporter can't be made.
    """
    where = _where(exporter)
    if where is None:
        return None
    try:
        sender = MetricsSender(counters, runs, where, resource_blob)
    except (ImportError, ValueError) as error:
        _log.warning("taskobs relay: no metrics are sent: %s", error)
        return None
    sender.start()
    return sender


class Stoppable(Protocol):
    """What ``start_metrics`` gives."""

    def stop(self, timeout: float) -> None:
        """Send a last time, and wait for that at most ``timeout`` seconds."""
        ...


def _where(exporter: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return how metrics are exported: as the spans are, to a path of their own."""
    off = os.environ.get(OTEL_METRICS_EXPORTER, "").strip().lower() == "none"
    if off or os.environ.get(OTEL_SDK_DISABLED, "").strip().lower() == "true":
        return None
    endpoint = str(exporter.get("endpoint") or "")
    if not endpoint:
        variables = (OTEL_EXPORTER_OTLP_METRICS_ENDPOINT, OTEL_EXPORTER_OTLP_ENDPOINT)
        return dict(exporter) if any(map(os.environ.get, variables)) else None
    if exporter.get("protocol") == GRPC:
        return dict(exporter)
    if endpoint.endswith(_TRACES_PATH):
        return {**exporter, "endpoint": endpoint.removesuffix(_TRACES_PATH) + _METRICS_PATH}
    return None  # nobody says where


def _interval() -> float:
    """Return the seconds between two exports; what is no time is as if it weren't there."""
    try:
        seconds = float(os.environ.get(OTEL_METRIC_EXPORT_INTERVAL, "")) / 1000
    except ValueError:
        return INTERVAL
    return seconds if 0 < seconds <= TIMEOUT_MAX else INTERVAL


def _wants_delta() -> bool:
    wanted = os.environ.get(OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE, "")
    return wanted.strip().lower() == "delta"
