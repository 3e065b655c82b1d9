"""Sends the first spans of a process without OpenTelemetry's exporter.

A command that publishes one message exports once. The exporter, with an HTTP client and protobuf,
takes longer to import than the command takes to do all else, so it comes with the second export.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from http.client import HTTPConnection, HTTPException
from typing import Final
from urllib.parse import urlsplit

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from taskobs.otel.export.otlp_encoder import encode

_log: Final = logging.getLogger("taskobs")
_MOST: Final = 64
"""Spans that are encoded here; more are no single command's."""
_TIMEOUT: Final = 10.0
"""Seconds, as the exporter's own default."""
_OURS: Final = frozenset(
    {
        *("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"),
        *("OTEL_EXPORTER_OTLP_PROTOCOL", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL"),
        *("OTEL_EXPORTER_OTLP_HEADERS", "OTEL_EXPORTER_OTLP_TRACES_HEADERS"),
    }
)
"""Variables of the exporter that are heeded here."""
_OTHERS: Final = ("OTEL_EXPORTER_OTLP_", "OTEL_PYTHON_EXPORTER_OTLP_", "OTEL_PYTHON_SDK_INTERNAL_")
_OF_METRICS: Final = "OTEL_EXPORTER_OTLP_METRICS_"


def suits(endpoint: str) -> bool:
    """Tell whether what the exporter would do can be done here: plain HTTP, without options."""
    if not endpoint.startswith("http://") or "@" in endpoint:
        return False
    for name, value in os.environ.items():
        of_exporter = name.startswith(_OTHERS) and not name.startswith(_OF_METRICS)
        if value and ((of_exporter and name not in _OURS) or name.lower().endswith("proxy")):
            return False
    return True


class FirstExport(SpanExporter):
    """Exports once by itself, and from then on, or if that fails, through an exporter of ``make``.

    The spans of an export that failed are exported again, so all that the exporter does about a
    failure, such as its retries, is done.
    """

    def __init__(
        self, make: Callable[[], SpanExporter], endpoint: str, headers: Mapping[str, str]
    ) -> None:
        self._make = make
        self._endpoint = urlsplit(endpoint)
        self._headers = headers
        self._exporter: SpanExporter | None = None
        self._tried = False

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Export spans."""
        if not self._tried:
            self._tried = True
            if len(spans) <= _MOST and self._is_sent(spans):
                return SpanExportResult.SUCCESS
        if self._exporter is None:
            self._exporter = self._make()
        return self._exporter.export(spans)

    def _is_sent(self, spans: Sequence[ReadableSpan]) -> bool:
        url = self._endpoint
        try:
            body = encode(spans)
            connection = HTTPConnection(url.hostname or "", url.port, timeout=_TIMEOUT)
            try:
                path = f"{url.path or '/'}?{url.query}" if url.query else url.path or "/"
                kind = {"Content-Type": "application/x-protobuf"}
                connection.request("POST", path, body, {**kind, **self._headers})
                return 200 <= connection.getresponse().status < 300  # noqa: PLR2004  # success
            finally:
                connection.close()
        except (OSError, HTTPException, TypeError, ValueError) as error:
            _log.debug("taskobs: the first spans go through OpenTelemetry's exporter: %r", error)
            return False

    def shutdown(self) -> None:
        """Close the exporter, if there is one."""
        self._tried = True
        if self._exporter is not None:
            self._exporter.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Do nothing: no span is kept here."""
        return self._exporter is None or self._exporter.force_flush(timeout_millis)
