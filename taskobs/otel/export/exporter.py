"""Makes OpenTelemetry's OTLP exporters, for processes that export their own spans."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable, Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Final

from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor
from opentelemetry.sdk.trace import export as sdk_export
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

from taskobs.config.settings import Settings
from taskobs.errors import MissingExtraError
from taskobs.internal.causes import describe, innermost
from taskobs.internal.import_lock import import_locked, watch_forks
from taskobs.internal.outage import LibraryLog, Outage
from taskobs.otel._sdk_compat import GRPC_IMPORTS
from taskobs.otel.export.batches import SpanBatches
from taskobs.otel.export.encoding import encoding_exporter
from taskobs.otel.export.otlp_post import suits
from taskobs.otel.export.secrets import secrets_of
from taskobs.otel.fast_provider import has_internal_metrics, is_of

if TYPE_CHECKING:
    from taskobs.otel.export.first_export import FirstExport

_log: Final = logging.getLogger("taskobs")
_HTTP: Final = "opentelemetry.exporter.otlp.proto.http.trace_exporter"
_GRPC: Final = "opentelemetry.exporter.otlp.proto.grpc.trace_exporter"
_IMPORTED_LATE: Final = {
    _HTTP: ("requests", "netrc", "encodings.idna", "importlib.readers"),
    _GRPC: GRPC_IMPORTS,
}
"""Modules that the exporters import when they are made, or when they first export."""
_LOGGERS: Final = (_HTTP, "opentelemetry.exporter.otlp.proto.grpc.exporter")
"""Where the exporters log each attempt that fails, and each batch that they give up."""


class ExporterFactory:
    """Makes exporters from the settings; their modules are imported with the first one.

    A worker's processes, which have a relay, never import them; that saves 6 MB and 60 ms of CPU
    time. Nor does a process that exports no more than once, such as a command, if ``FirstExport``
    can do that. If an exporter imported a module on its own thread during a fork, the child would
    wait for the module's lock for ever. So all modules are imported together, and forks wait.

    Raises:
        MissingExtraError: ``otlp_protocol`` is ``grpc`` and its exporter is not installed.
    """

    def __init__(self, settings: Settings) -> None:
        self._module = _GRPC if settings.otlp_protocol == "grpc" else _HTTP
        if self._module == _GRPC and not (_is_installed("grpc") and _is_installed(_GRPC)):
            raise MissingExtraError("otlp_protocol='grpc'", "grpc")
        self._destination = settings.shown_endpoint
        self._endpoint = settings.traces_endpoint
        self._headers = dict(settings.otlp_headers or {})
        self._settings = settings
        self._options: dict[str, Any] = {}
        if settings.given["otlp_endpoint"] == "argument":
            self._options["endpoint"] = settings.traces_endpoint
        if settings.given["otlp_headers"] == "argument":
            self._options["headers"] = self._headers
        watch_forks()

    def prepare(self) -> Any:  # noqa: ANN401  # a module, of which there are two
        """Import the modules: in the parent, so that its children share their memory."""
        return import_locked(self._module, *_IMPORTED_LATE[self._module])

    @property
    def encodes(self) -> bool:
        """Whether spans are encoded here, for which they need not be the SDK's."""
        return not has_internal_metrics()

    def make_processor(self) -> SpanProcessor:
        """Make one, and what gives it ended spans in batches."""
        # The SDK's, if another library has changed what it does.
        if self.encodes and all(is_of(sdk_export, one) for one in _not_called()):
            exporter = self.make()
            return SpanBatches(exporter, exporter.lost)
        return BatchSpanProcessor(self.make())

    def make(self) -> FirstExport | LoggedExporter:
        """Make one, or what exports in its place until it is worth its import."""
        if self._module == _HTTP and _HTTP not in sys.modules and self._endpoint is not None:
            own = import_locked("taskobs.otel.export.first_export")
            if suits(self._endpoint):
                first: FirstExport = own.FirstExport(self._make, self._endpoint, self._headers)
                return first
        return self._make()

    def _make(self) -> LoggedExporter:
        # It reads the other options from ``OTEL_EXPORTER_OTLP_*`` itself.
        exporter: SpanExporter
        if self.encodes:
            exporter = encoding_exporter(self.prepare(), self._options)
        else:
            exporter = self.prepare().OTLPSpanExporter(**self._options)
        return LoggedExporter(exporter, self._destination, secrets_of(self._settings))


class LoggedExporter(SpanExporter):
    """Exports with another exporter, and logs when that begins to fail and when it works again."""

    def __init__(
        self, exporter: SpanExporter, destination: str, secrets: Iterable[str] = ()
    ) -> None:
        """``destination`` is where the exporter sends to, without the ``secrets``."""
        self._exporter = exporter
        self._outage = Outage(_log, f"taskobs: span export to {destination}")
        self._library_log = LibraryLog(_LOGGERS, self._outage.began, secrets)

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Export a batch; the exporter tries again by itself, within its timeout."""
        try:
            with self._library_log:
                result = self._exporter.export(spans)
        except OSError as error:
            # Of requests, which the exporter over HTTP raised (seen in 1.28 to 1.38).
            self._outage.began(describe(innermost(error)))
            result = SpanExportResult.FAILURE
        if result is SpanExportResult.SUCCESS:
            self._outage.ended()
        else:
            self._outage.began("the exporter has failed")  # if its log has not said why
            self._outage.lost(len(spans))
        return result

    def lost(self, number: int) -> None:
        """Log that spans were dropped, as more ended than could be sent."""
        self._outage.began("more spans ended than could be sent")
        self._outage.lost(number)

    def shutdown(self) -> None:
        """Stop the exporter, and log what was lost."""
        self._exporter.shutdown()
        self._library_log.close()
        self._outage.closed()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Flush the exporter."""
        return self._exporter.force_flush(timeout_millis)


def _not_called() -> Iterable[object]:
    """Return the SDK's functions that ``SpanBatches`` bypasses."""
    return (BatchSpanProcessor.__init__, BatchSpanProcessor.on_end)


def _is_installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ImportError:  # nor is a package that it would be in
        return False
