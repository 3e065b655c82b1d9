"""OpenTelemetry's exporters, without their encoder."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from taskobs.otel.export.span_requests import SpanRequests, sdk_spans
from taskobs.otel.fast_provider import is_of
from taskobs.protocol.otlp.request_body import RequestBody
from taskobs.protocol.sanitize import UNEXPECTED

if TYPE_CHECKING:
    from taskobs.protocol.otlp.request_message import RequestMessage

_log: Final = logging.getLogger("taskobs")
_LARGE: Final = 32 * 1024 * 1024
"""Bytes of a request that is left to the exporter, which may have a limit (64 MB in 1.45)."""
_HTTP: Final = ".http."
_PROVIDERS: Final = tuple(
    f"OTEL_PYTHON_EXPORTER_OTLP_HTTP_{signal}CREDENTIAL_PROVIDER" for signal in ("", "TRACES_")
)
"""Variables that name a session of somebody else's, which may send requests in its own way."""


class EncodingExporter(SpanExporter):
    """Exports spans with an exporter, encoded here where that is possible; fast spans, too.

    Not thread-safe.
    """

    def __init__(self, exporter: SpanExporter, body: RequestBody | RequestMessage | None) -> None:
        """``body`` is that of the exporter's requests; None if it can't be replaced."""
        self._exporter = exporter
        self._body = body
        self._requests = SpanRequests()

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Export a batch; the exporter tries again by itself, within its timeout."""
        request = self._encoded(spans) if self._body is not None else None
        if self._body is not None and request is not None:
            with self._body.of(request) as body:
                result = self._exporter.export(())
            if body.was_sent:
                return result
            self._body = None  # it has been shut down, or doesn't send what has no spans
        return self._exporter.export(sdk_spans(spans))

    def _encoded(self, spans: Sequence[ReadableSpan]) -> bytes | None:
        try:
            request = self._requests.encode(spans)
        except UNEXPECTED as error:
            _log.debug("taskobs: spans are encoded by OpenTelemetry's exporter: %r", error)
            return None
        return request if len(request) <= _LARGE else None

    def shutdown(self) -> None:
        """Stop the exporter."""
        self._exporter.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Flush the exporter."""
        return self._exporter.force_flush(timeout_millis)


def encoding_exporter(module: Any, options: Mapping[str, object]) -> EncodingExporter:  # noqa: ANN401  # the exporter's module
    """Make the exporter of a module, which reads all but ``options`` from the environment."""
    kind = module.OTLPSpanExporter
    # Its own, as another library may have changed what it does with the spans.
    if not is_of(module, getattr(kind, "export", None)):
        return EncodingExporter(kind(**options), None)
    return _over_http(kind, options) if _HTTP in module.__name__ else _over_grpc(kind, options)


def _over_http(kind: Any, options: Mapping[str, object]) -> EncodingExporter:  # noqa: ANN401  # the exporter's class
    if any(map(os.environ.get, _PROVIDERS)):
        return EncodingExporter(kind(**options), None)
    from requests import Session

    session = Session()
    body = RequestBody(session)
    return EncodingExporter(kind(session=session, **options), body)


def _over_grpc(kind: Any, options: Mapping[str, object]) -> EncodingExporter:  # noqa: ANN401  # the exporter's class
    from taskobs.protocol.otlp.request_message import RequestMessage, intercepted

    message = RequestMessage()
    with intercepted(message) as channels:
        exporter = kind(**options)
    return EncodingExporter(exporter, message if channels.number else None)
