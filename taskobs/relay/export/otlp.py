"""Sends spans and log records from the store through OpenTelemetry's own OTLP exporters."""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any, ClassVar, Final, Protocol

from taskobs.protocol.log_decoder import LogDecoder
from taskobs.protocol.otlp.packed_spans import SpanMessages
from taskobs.protocol.otlp.spans import encode_request
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
_LOGS: Final = "LOGS"
_LOG_EXPORTERS: Final = "opentelemetry_logs_exporter"
"""The entry points of log exporters, whose modules have no public name (seen in 1.28 to 1.45)."""
_EXPORTERS: Final = "opentelemetry.exporter"
_OPTIONS: Final = (
    *("endpoint", "headers", "timeout", "max_export_batch_size"),
    *("certificate_file", "client_key_file", "client_certificate_file"),
)
"""What exporters are made with under the name that it has here."""


class ExporterAdapter(Protocol):
    """Sends telemetry through one of OpenTelemetry's exporters."""

    @property
    def encodes(self) -> bool:
        """Whether ``send_encoded`` works."""
        ...

    def send_encoded(self, request: bytes) -> ExportResult | None:
        """Send an OTLP request once, without OpenTelemetry's encoder.

        None if it was not sent, for a reason that the exporter has logged.
        """
        ...

    def send(self, telemetry: object) -> ExportResult | None:
        """Export once; None if nothing was sent, for a reason that the exporter has logged."""
        ...

    def close(self) -> None:
        """Close its connections."""
        ...


def make_exporter_adapter(signal: str, exporter: Mapping[str, Any]) -> ExporterAdapter:
    """Return an adapter for a signal, "TRACES", "METRICS" or "LOGS".

    ``exporter`` has ``protocol``, ``endpoint`` and ``headers``; if it is the app's, also its other
    settings. What is None there, OpenTelemetry's exporter reads from ``OTEL_EXPORTER_OTLP_*``
    itself.

    Raises:
        ImportError: the exporter of the protocol is not installed.
        Exception: whatever the exporter raises for variables that it can't read.
    """
    grpc = exporter.get("protocol") == GRPC
    kind = _exporter(signal, "grpc" if grpc else "http")
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


def _exporter(signal: str, protocol: str) -> Any:  # noqa: ANN401  # a class of a library's
    """Return the class of a signal's exporter.

    Raises:
        ImportError: it is not installed.
    """
    if signal == _LOGS:
        found = next(iter(entry_points(group=_LOG_EXPORTERS, name=f"otlp_proto_{protocol}")), None)
        if found is None:
            raise ImportError(f"no exporter of log records over {protocol} is installed")
        return found.load()
    module, name = _MODULES[signal]
    return getattr(import_module(f"{_EXPORTERS}.otlp.proto.{protocol}.{module}"), name)


def quieten() -> None:
    """Keep what libraries log of each attempt out of the relay's log, which has lines of its own.

    That is one when an outage begins, and one when it ends.
    """
    for name in (_EXPORTERS, "urllib3", "requests", "grpc"):
        logging.getLogger(name).setLevel(logging.CRITICAL)


class OtlpSender(BatchSender):
    """Exports items of one kind over OTLP, in batches."""

    signal: ClassVar[str]
    """What ``make_exporter_adapter`` calls them."""

    def __init__(
        self, store: Store, counters: Counters, exporter: Mapping[str, Any], address: str = ""
    ) -> None:
        """Raises what ``make_exporter_adapter`` does; ``address`` is for the log."""
        super().__init__(store, counters, address)
        self._decoder = SpanDecoder()
        self._adapter = make_exporter_adapter(self.signal, exporter)
        self._decoded: dict[int, Any] = {}

    @abstractmethod
    def _decode_one(self, one: Stored) -> object:
        """Return what the exporter takes for an item.

        Raises:
            MalformedError: it can't be read.
        """

    def _export(self, decoded: Sequence[Any]) -> ExportResult | None:
        """Send once; None if nothing was sent."""
        return self._adapter.send(decoded)

    def _unsent(self, decoded: Sequence[Any], error: Exception | None) -> ExportResult:
        """Say why nothing was sent; ``error`` is what the exporter raised, if it did."""
        del decoded
        return ExportResult(ExportStatus.DROP, UNSENDABLE, type(error).__name__ if error else "")

    def _decode(self, batch: list[Stored]) -> list[Stored]:
        return [one for one in batch if self._is_decoded(one)]

    def _is_decoded(self, one: Stored) -> bool:
        try:
            self._decoded[one.id] = self._decode_one(one)
        except MalformedError as error:
            self._give_up([one], MALFORMED, str(error))
            return False
        return True

    def _send(self, batch: Sequence[Stored]) -> ExportResult:
        decoded = [self._decoded[one.id] for one in batch]
        try:
            result = self._export(decoded)
        except Exception as error:  # noqa: BLE001  # whatever an exporter may raise
            return self._unsent(decoded, error)
        return result or self._unsent(decoded, None)

    def _forget(self) -> None:
        self._decoded.clear()

    def _close(self) -> None:
        self._adapter.close()


class SpanSender(OtlpSender):
    """Exports spans in batches."""

    kind: ClassVar[ItemKind] = "span"
    signal: ClassVar[str] = "TRACES"
    limits: ClassVar[Limits] = Limits(items=256, bytes=1024 * 1024, max_delay=1.0)

    def __init__(
        self, store: Store, counters: Counters, exporter: Mapping[str, Any], address: str = ""
    ) -> None:
        """Raises what ``make_exporter_adapter`` does; ``address`` is for the log."""
        super().__init__(store, counters, exporter, address)
        self._messages = SpanMessages() if self._adapter.encodes else None

    def _decode_one(self, one: Stored) -> object:
        if self._messages is not None:
            return self._messages.encode(one.item.payload, one.item.resource_blob)
        return self._decoder.span(one.item.payload, one.item.resource_blob)

    def _export(self, decoded: Sequence[Any]) -> ExportResult | None:
        if self._messages is not None:
            return self._adapter.send_encoded(encode_request(decoded))
        return super()._export(decoded)

    def _unsent(self, decoded: Sequence[Any], error: Exception | None) -> ExportResult:
        """Find out whether a span can't be encoded by OpenTelemetry's encoder."""
        if self._messages is not None:
            return super()._unsent(decoded, error)
        from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans

        try:
            encode_spans(decoded).SerializePartialToString()
        except Exception as problem:  # noqa: BLE001  # whatever an encoder may raise
            name = type(problem).__name__
            return ExportResult(ExportStatus.SPLIT, "cannot be encoded", name)
        return super()._unsent(decoded, error)


class LogSender(OtlpSender):
    """Exports log records in batches."""

    kind: ClassVar[ItemKind] = "log"
    signal: ClassVar[str] = _LOGS
    limits: ClassVar[Limits] = Limits(items=512, bytes=1024 * 1024, max_delay=1.0)

    def __init__(
        self, store: Store, counters: Counters, exporter: Mapping[str, Any], address: str = ""
    ) -> None:
        """Raises what ``make_exporter_adapter`` does; ``address`` is for the log."""
        super().__init__(store, counters, exporter, address)
        self._logs = LogDecoder()

    def _decode_one(self, one: Stored) -> object:
        return self._logs.log(one.item.payload, self._decoder.resource(one.item.resource_blob))
