"""Sends the first spans of a process without OpenTelemetry's exporter.

A command that publishes one message exports once. The exporter, with an HTTP client and protobuf,
takes longer to import than the command takes to do all else, so it comes with the second export.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from taskobs.internal.causes import describe
from taskobs.otel.export.exporter import LoggedExporter
from taskobs.otel.export.otlp_post import post
from taskobs.otel.export.span_requests import SpanRequests

_log: Final = logging.getLogger("taskobs")
_MOST: Final = 64
"""Spans that are encoded here; more are no single command's."""


class FirstExport(SpanExporter):
    """Exports once by itself, and from then on, or if that fails, through an exporter of ``make``.

    The spans of an export that failed are exported again, so all that the exporter does about a
    failure, such as its retries, is done.
    """

    def __init__(
        self, make: Callable[[], SpanExporter], endpoint: str, headers: Mapping[str, str]
    ) -> None:
        self._make = make
        self._endpoint = endpoint
        self._headers = headers
        self._exporter: SpanExporter | None = None
        self._tried = False

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Export spans."""
        if not self._tried:
            self._tried = True
            if len(spans) <= _MOST and self._is_sent(spans):
                return SpanExportResult.SUCCESS
        return self._made().export(spans)

    def _made(self) -> SpanExporter:
        if self._exporter is None:
            self._exporter = self._make()
        return self._exporter

    def lost(self, number: int) -> None:
        """Have the exporter log that spans were dropped."""
        exporter = self._made()
        if isinstance(exporter, LoggedExporter):
            exporter.lost(number)

    def _is_sent(self, spans: Sequence[ReadableSpan]) -> bool:
        try:
            return post(self._endpoint, self._headers, SpanRequests().encode(spans))
        except (OSError, ValueError) as error:
            _log.debug(
                "taskobs: the first spans go through OpenTelemetry's exporter: %s", describe(error)
            )
            return False

    def shutdown(self) -> None:
        """Close the exporter, if there is one."""
        self._tried = True
        if self._exporter is not None:
            self._exporter.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Do nothing: no span is kept here."""
        return self._exporter is None or self._exporter.force_flush(timeout_millis)
