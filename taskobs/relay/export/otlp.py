"""Sends spans from the store through OpenTelemetry's own OTLP exporters."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any, ClassVar, Final, Protocol

from opentelemetry.sdk.trace import ReadableSpan

from taskobs.protocol.span_decoder import SpanDecoder
from taskobs.protocol.validation import MalformedError
from taskobs.relay.counters import Counters
from taskobs.relay.export.batch_sender import BatchSender, Limits
from taskobs.relay.export.responses import ExportResult, ExportStatus
from taskobs.relay.export.sender import MALFORMED, UNSENDABLE
from taskobs.relay.storage.base import Store
from taskobs.relay.storage.items import ItemKind, Stored

GRPC: Final = "grpc"
_MODULES: Final = {
    "TRACES": ("trace_exporter", "OTLPSpanExporter"),
    "METRICS": ("metric_exporter", "OTLPMetricExporter"),
}
_EXPORTERS: Final = "opentelemetry.exporter"
_OPTIONS: Final = (
    *("endpoint", "headers", "timeout"),
    *("certificate_file", "client_key_file", "client_certificate_file"),
)
"""What exporters are made with under the name that it has here."""


class ExporterAdapter(Protocol):
    """Sends telemetry through one of OpenTelemetry's exporters."""

    def send(self, telemetry: object) -> ExportResult | None:
        """Export once; None if nothing was sent, for a reason that the exporter has logged."""
        ...

    def close(self) -> None:
        """Close its connections."""
        ...


def make_exporter_adapter(signal: str, exporter: Mapping[str, Any]) -> ExporterAdapter:
    """Return an adapter for a signal, "TRACES" or "METRICS".

    ``exporter`` has ``protocol``, ``endpoint`` and ``headers``; if it is the app's, also its other
    settings. What is None there, OpenTelemetry's exporter reads from ``OTEL_EXPORTER_OTLP_*``
    itself.

    Raises:
        ImportError: the exporter of the protocol is not installed.
        Exception: whatever the exporter raises for variables that it can't read.
    """
    module, name = _MODULES[signal]
    grpc = exporter.get("protocol") == GRPC
    protocol = "grpc" if grpc else "http"
    kind = getattr(import_module(f"{_EXPORTERS}.otlp.proto.{protocol}.{module}"), name)
    options = {option: exporter[option] for option in _OPTIONS if exporter.get(option)}
    compression = exporter.get("compression")
    if grpc:
        from taskobs.relay.export.otlp_grpc import GrpcExporterAdapter, options_of_app

        return GrpcExporterAdapter(kind, options | options_of_app(exporter))
    from taskobs.relay.export.otlp_http import HttpExporterAdapter

    if compression:
        options["compression"] = import_module(f"{_EXPORTERS}.otlp.proto.http").Compression(
            compression
        )
    return HttpExporterAdapter(kind, signal, options)


def quieten() -> None:
    """Keep what libraries log of each attempt out of the relay's log, which has lines of its own.

    That is one when an outage begins, and one when it ends.
    """
    for name in (_EXPORTERS, "urllib3", "requests", "grpc"):
        logging.getLogger(name).setLevel(logging.CRITICAL)


class SpanSender(BatchSender):
    """Exports spans in batches."""

    kind: ClassVar[ItemKind] = "span"
    limits: ClassVar[Limits] = Limits(items=256, bytes=1024 * 1024, max_delay=1.0)

    def __init__(
        self, store: Store, counters: Counters, exporter: Mapping[str, Any], address: str = ""
    ) -> None:
        """Raises what ``make_exporter_adapter`` does; ``address`` is for the log."""
        super().__init__(store, counters, address)
        self._decoder = SpanDecoder()
        self._adapter = make_exporter_adapter("TRACES", exporter)
        self._spans: dict[int, ReadableSpan] = {}

    def _decode(self, batch: list[Stored]) -> list[Stored]:
        return [one for one in batch if self._is_decoded(one)]

    def _is_decoded(self, one: Stored) -> bool:
        try:
            self._spans[one.id] = self._decoder.span(one.item.payload, one.item.resource_blob)
        except MalformedError as error:
            self._give_up([one], MALFORMED, str(error))
            return False
        return True

    def _send(self, batch: Sequence[Stored]) -> ExportResult:
        spans = [self._spans[one.id] for one in batch]
        try:
            result = self._adapter.send(spans)
        except Exception as error:  # noqa: BLE001  # whatever an exporter may raise
            return _unsent(spans, error)
        return result or _unsent(spans, None)

    def _forget(self) -> None:
        self._spans.clear()

    def _close(self) -> None:
        self._adapter.close()


def _unsent(spans: Sequence[ReadableSpan], error: Exception | None) -> ExportResult:
    """Say why nothing was sent: a span that can't be encoded, or what the exporter raised."""
    from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans

    try:
        encode_spans(spans).SerializePartialToString()
    except Exception as problem:  # noqa: BLE001  # whatever an encoder may raise
        return ExportResult(ExportStatus.SPLIT, "cannot be encoded", f"{type(problem).__name__}")
    return ExportResult(ExportStatus.DROP, UNSENDABLE, type(error).__name__ if error else "")
