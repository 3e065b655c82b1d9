"""Sends the metrics of a worker and of its relay over OTLP."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Generator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from contextvars import ContextVar
from threading import Event, Lock, Thread
from typing import Any, Final, NamedTuple

from opentelemetry.sdk.environment_variables import (
    OTEL_EXPORTER_OTLP_ENDPOINT,
    OTEL_EXPORTER_OTLP_METRICS_ENDPOINT,
    OTEL_SDK_DISABLED,
)

from taskobs.metrics.changes import Baseline
from taskobs.metrics.data_points import metrics_data
from taskobs.metrics.export_variables import export_interval, wants_delta
from taskobs.metrics.moment import Moment
from taskobs.metrics.snapshot import Snapshot, pack_snapshot, unpack_snapshot
from taskobs.relay.export.otlp import GRPC, make_exporter_adapter
from taskobs.relay.export.responses import ExportResult, ExportStatus
from taskobs.relay.metrics.accepted import AcceptedMemory
from taskobs.relay.metrics.collected import Collected

_log = logging.getLogger("taskobs.relay")
RELAY: Final = "taskobs relay"
OTEL_METRICS_EXPORTER: Final = "OTEL_METRICS_EXPORTER"
INTERVAL: Final = 60.0
"""Seconds between two exports; ``OTEL_METRIC_EXPORT_INTERVAL``, in milliseconds, says otherwise."""
_REFUSED: Final = frozenset({ExportStatus.DROP, ExportStatus.SPLIT, ExportStatus.TOO_LARGE})
_NO_METRICS: Final = frozenset({"HTTP 404", "HTTP 405", "HTTP 501", "gRPC UNIMPLEMENTED"})
"""What backends answer that have spans alone."""
_EXPORTERS: Final = "opentelemetry.exporter.otlp"
_TRACES_PATH: Final = "/v1/traces"
_METRICS_PATH: Final = "/v1/metrics"


class Cadence(NamedTuple):
    """When metrics are sent, and as what."""

    interval: float
    """Seconds between two exports."""
    delta: bool
    """Sums are what came since the last export, and not since the start."""

    @classmethod
    def of_variables(cls) -> Cadence:
        """Return what OpenTelemetry's variables say."""
        return cls(export_interval(INTERVAL), wants_delta())


class MetricsSender:
    """Sends metrics at an interval, and when it is stopped. ``start`` and ``stop`` are called once.

    ``collect`` returns the metrics; nothing is sent as long as the worker's resource is not known.
    A backend that refuses metrics is not asked again. ``who`` begins each line of the log.
    Where ``memory`` is given, what a backend of deltas has accepted is kept there, and read again
    by the sender of a relay that takes over. Each request is made in what ``around`` returns.
    Without a ``cadence``, OpenTelemetry's variables say when to send.
    """

    def __init__(  # noqa: PLR0913, PLR0917  # each has a use by itself
        self,
        collect: Callable[[], Collected],
        exporter: Mapping[str, Any],
        who: str = RELAY,
        memory: AcceptedMemory | None = None,
        around: Callable[[], AbstractContextManager[object]] = nullcontext,
        cadence: Cadence | None = None,
    ) -> None:
        """Raises what ``make_exporter_adapter`` does."""
        self._around = around
        self._memory = memory
        self._collect = collect
        self._who = who
        self._cadence = cadence or Cadence.of_variables()
        self._baseline = Baseline() if self._cadence.delta else None
        if self._baseline is not None and memory is not None:
            _restore(self._baseline, memory)
        self._adapter = make_exporter_adapter("METRICS", exporter)
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
        # Collected within the lock too: sums that arrive after larger ones look like a restart.
        with self._lock:
            found = self._collect()
            if found.resource is None or self._refused:
                return
            taken_at = Moment()
            data = metrics_data(found.groups, found.resource, self._baseline)
            with _quiet(), self._around():
                result = self._adapter.send(data)
            accepted = result is not None and result.status is ExportStatus.SUCCESS
            if self._baseline is not None and accepted:
                self._baseline.accepted(found.families, taken_at)
                self._keep(found, taken_at)
        self._judge(result)

    def _judge(self, result: ExportResult | None) -> None:
        """Say what became of an export, where that is worth a line."""
        if result is None or result.status in _REFUSED:
            self._refused = True
            _log_refusal(result, self._who)

    def _keep(self, found: Collected, taken_at: Moment) -> None:
        """Keep the worker's sums; what the relay counts begins anew with the next one."""
        if self._memory is not None and found.of_worker:
            kept = Snapshot(since=taken_at.epoch_ns, families=found.of_worker)
            self._memory.note_exported(pack_snapshot(kept))

    def _run(self) -> None:
        while True:
            ended = self._ended.wait(self._cadence.interval)
            try:
                self.send()
            except Exception:  # noqa: BLE001  # whatever an exporter may raise
                self._refused = True
                _log.exception("%s: metric export failed, and metrics are not sent", self._who)
            if ended:
                self._adapter.close()
                return


_sending: Final[ContextVar[bool]] = ContextVar("taskobs_sends_metrics", default=False)


@contextmanager
def _quiet() -> Generator[None]:
    """Keep the exporters' own lines on our requests out of the log; those on the app's stay."""
    logger = logging.getLogger(_EXPORTERS)
    logger.addFilter(_is_not_ours)
    for name in [name for name in logging.root.manager.loggerDict if name.startswith(_EXPORTERS)]:
        logging.getLogger(name).addFilter(_is_not_ours)  # again is once
    token = _sending.set(True)
    try:
        yield
    finally:
        _sending.reset(token)


def _is_not_ours(_: logging.LogRecord) -> bool:
    return not _sending.get()


def _log_refusal(result: ExportResult | None, who: str) -> None:
    """Log at INFO that a backend has no metrics, as Jaeger; anything else is a warning."""
    chosen = os.environ.get(OTEL_EXPORTER_OTLP_METRICS_ENDPOINT)
    if result is not None and result.reason in _NO_METRICS and not chosen:
        _log.info(
            "%s: the backend takes no metrics (%s), so none are sent. "
            "Set OTEL_METRICS_EXPORTER=none if it never will",
            *(who, result.reason),
        )
    else:
        why = result.text if result else "the exporter sent nothing"
        _log.warning("%s: metrics are refused, and not sent any more: %s", who, why)


def _restore(baseline: Baseline, memory: AcceptedMemory) -> None:
    kept = memory.exported()
    if kept is not None:
        with suppress(ValueError):  # written by a process of another release
            snapshot = unpack_snapshot(kept)
            baseline.restore(snapshot.families, snapshot.since)


def start_metrics(
    collect: Callable[[], Collected],
    exporter: Mapping[str, Any],
    who: str = RELAY,
    memory: AcceptedMemory | None = None,
    around: Callable[[], AbstractContextManager[object]] = nullcontext,
) -> MetricsSender | None:
    """Start to send metrics; return None if they are not wanted or have no endpoint.

    They are wanted unless ``OTEL_METRICS_EXPORTER`` is "none"; an endpoint is in ``exporter`` or
    in a variable. When the exporter can't be made, a warning says why, and None is returned too.
    """
    options = _metrics_exporter(exporter)
    if options is None:
        return None
    try:
        sender = MetricsSender(collect, options, who, memory, around)
    except (ImportError, ValueError) as error:
        _log.warning("%s: no metrics are sent: %s", who, error)
        return None
    sender.start()
    return sender


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
