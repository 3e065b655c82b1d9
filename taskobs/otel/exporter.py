"""The stock exporter of a process that sends its own spans."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any, Final

from opentelemetry.sdk.trace.export import SpanExporter

from taskobs.config.settings import Settings
from taskobs.errors import MissingExtraError
from taskobs.internal.import_lock import import_locked, watch_forks

_HTTP: Final = "opentelemetry.exporter.otlp.proto.http.trace_exporter"
_GRPC: Final = "opentelemetry.exporter.otlp.proto.grpc.trace_exporter"
_IMPORTED_LATE: Final = {
    _HTTP: ("requests", "netrc", "encodings.idna", "importlib.readers"),
    _GRPC: ("grpc.experimental", "grpc._channel"),
}
"""What the exporters import when they are made, or send for the first time."""


class ExporterFactory:
    """Makes exporters as the settings say; their modules are imported with the first of them.

    The processes of a worker, which have a relay, never need them: 6 MB and 60 ms of CPU time.
    An exporter that imports on its own thread while the process forks would leave the child stuck
    on the module's lock. So it is the thread which ends a process's first span that imports all of
    them, and forks wait for it.

    Raises:
        MissingExtraError: ``otlp_protocol`` is ``grpc`` and its exporter is not installed.
    """

    def __init__(self, settings: Settings) -> None:
        self._module = _GRPC if settings.otlp_protocol == "grpc" else _HTTP
        if self._module == _GRPC and not (_is_installed("grpc") and _is_installed(_GRPC)):
            raise MissingExtraError("otlp_protocol='grpc'", "grpc")
        self._options: dict[str, Any] = {}
        if settings.given["otlp_endpoint"] == "argument":
            self._options["endpoint"] = settings.traces_endpoint
        if settings.given["otlp_headers"] == "argument":
            self._options["headers"] = dict(settings.otlp_headers or {})
        watch_forks()

    def prepare(self) -> Any:  # noqa: ANN401  # a module, of which there are two
        """Import the modules: in a parent, so that its children have them in common."""
        return import_locked(self._module, *_IMPORTED_LATE[self._module])

    def make(self) -> SpanExporter:
        """Make one; what is no argument, it reads from ``OTEL_EXPORTER_OTLP_*`` itself."""
        exporter: SpanExporter = self.prepare().OTLPSpanExporter(**self._options)
        return exporter


def _is_installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ImportError:  # nor is a package that it would be in
        return False
