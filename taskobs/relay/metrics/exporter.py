"""Sends what the relay counts, and the runs of its worker, as metrics over OTLP."""

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
from taskobs.relay.export.responses import ExportResult, ExportStatus
from taskobs.relay.metrics.data_points import Snapshot
from taskobs.relay.metrics.run_statistics import RunStatistics

_log = logging.getLogger("taskobs.relay")
OTEL_METRICS_EXPORTER: Final = "OTEL_METRICS_EXPORTER"
INTERVAL: Final = 60.0
"""Seconds between two exports; ``OTEL_METRIC_EXPORT_INTERVAL``, in milliseconds, says otherwise."""
_REFUSED: Final = frozenset({ExportStatus.DROP, ExportStatus.SPLIT, ExportStatus.TOO_LARGE})
_NO_METRICS: Final = frozenset({"HTTP 404", "HTTP 405", "HTTP 501", "gRPC UNIMPLEMENTED"})
"""What backends answer that have spans alone."""
_TRACES_PATH: Final = "/v1/traces"
_METRICS_PATH: Final = "/v1/metrics"


class MetricsSender:
    """Sends metrics at an interval, and when it is stopped. ``start`` and ``stop`` are called once.

    ``resource_blob`` returns the packed resource of the worker, or None as long as that is not
    known: then nothing is sent. A backend that refuses metrics is not asked again.
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
        self._resource_blob = resource_blob
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
        resource_blob = self._resource_blob()
        if resource_blob is None or self._refused:
            return
        with self._lock:
            data = self._snapshot.take(SpanDecoder().resource(resource_blob))
            result = self._adapter.send(data)
            accepted = result is not None and result.status is ExportStatus.SUCCESS
            self._snapshot.settle(accepted=accepted)
        if result is None or result.status in _REFUSED:
            self._refused = True
            _log_refusal(result)

    def _run(self) -> None:
        interval = _interval()
        while True:
            ended = self._ended.wait(interval)
            try:
                self.send()
            except Exception:  # noqa: BLE001  # whatever an exporter may raise
                self._refused = True
                _log.exception("taskobs relay: metric export failed, and metrics are not sent")
            if ended:
                self._adapter.close()
                return


def _log_refusal(result: ExportResult | None) -> None:
    """Log at INFO that a backend has no metrics, as Jaeger; anything else is a warning."""
    chosen = os.environ.get(OTEL_EXPORTER_OTLP_METRICS_ENDPOINT)
    if result is not None and result.reason in _NO_METRICS and not chosen:
        _log.info(
            "taskobs relay: the backend takes no metrics (%s), so none are sent. "
            "Set OTEL_METRICS_EXPORTER=none if it never will",
            result.reason,
        )
    else:
        why = result.text if result else "the exporter sent nothing"
        _log.warning("taskobs relay: metrics are refused, and not sent any more: %s", why)


def start_metrics(
    counters: Counters,
    runs: RunStatistics,
    exporter: Mapping[str, Any],
    resource_blob: Callable[[], bytes | None],
) -> Stoppable | None:
    """Start to send metrics; return None if they are not wanted or have no endpoint.

    They are wanted unless ``OTEL_METRICS_EXPORTER`` is "none"; an endpoint is in ``exporter`` or
    in a variable. When the exporter can't be made, a warning says why, and None is returned too.
    """
    options = _metrics_exporter(exporter)
    if options is None:
        return None
    try:
        sender = MetricsSender(counters, runs, options, resource_blob)
    except (ImportError, ValueError) as error:
        _log.warning("taskobs relay: no metrics are sent: %s", error)
        return None
    sender.start()
    return sender


class Stoppable(Protocol):
    """What ``start_metrics`` returns."""

    def stop(self, timeout: float) -> None:
        """Send a last time, and wait for that at most ``timeout`` seconds."""
        ...


def _metrics_exporter(exporter: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return how metrics are exported: as the spans are, but to a path of their own."""
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
    return None  # an endpoint of spans alone does not say where metrics go


def _interval() -> float:
    """Return the seconds between two exports; a variable that is no time is ignored."""
    try:
        seconds = float(os.environ.get(OTEL_METRIC_EXPORT_INTERVAL, "")) / 1000
    except ValueError:
        return INTERVAL
    return seconds if 0 < seconds <= TIMEOUT_MAX else INTERVAL


def _wants_delta() -> bool:
    wanted = os.environ.get(OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE, "")
    return wanted.strip().lower() == "delta"
