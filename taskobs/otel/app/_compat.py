"""Private names of the app's TracerProvider and its exporters: the only module that uses them.

Each name is declared in ``NAMES``. Where one is missing, the app's exporters are left alone.
"""

# pyright: reportPrivateUsage=false
# ruff: noqa: SLF001

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from operator import attrgetter
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from opentelemetry.sdk.trace import (
    ConcurrentMultiSpanProcessor,
    SpanProcessor,
    SynchronousMultiSpanProcessor,
)

from taskobs.internal.private_names import PrivateName

_SDK: Final = "opentelemetry-sdk"
_TRACE: Final = "opentelemetry.sdk.trace"
_HTTP_EXPORTER: Final = "opentelemetry.exporter.otlp.proto.http.trace_exporter"
_HTTP_CLIENT: Final = "opentelemetry.exporter.otlp.common.http"  # since 1.45
_HTTP_TRANSPORT: Final = "opentelemetry.exporter.http.transport._requests"  # since 1.45
_GRPC_EXPORTER: Final = "opentelemetry.exporter.otlp.proto.grpc.exporter"
_EXPORTERS: Final = {
    # By module: its distribution, and what is read of the app's exporters.
    _HTTP_EXPORTER: (
        "opentelemetry-exporter-otlp-proto-http",
        *("OTLPSpanExporter._endpoint", "OTLPSpanExporter._compression"),
        "OTLPSpanExporter._client",  # since 1.45; the next four before that
        *("OTLPSpanExporter._session", "OTLPSpanExporter._timeout"),
        *("OTLPSpanExporter._certificate_file", "OTLPSpanExporter._client_cert"),
    ),
    _HTTP_CLIENT: (
        "opentelemetry-exporter-otlp-common",
        *("_OTLPHTTPClient._headers", "_OTLPHTTPClient._timeout", "_OTLPHTTPClient._transport"),
    ),
    _HTTP_TRANSPORT: (
        "opentelemetry-exporter-http-transport",
        "RequestsHTTPTransport._session",
    ),
    _GRPC_EXPORTER: (
        "opentelemetry-exporter-otlp-proto-grpc",
        *("OTLPExporterMixin._endpoint", "OTLPExporterMixin._insecure"),
        *("OTLPExporterMixin._headers", "OTLPExporterMixin._timeout"),
        *("OTLPExporterMixin._compression", "OTLPExporterMixin._channel_options"),
    ),
}
_NOT_RELAYED: Final = "spans of the app's own exporters are exported by each process"

_OF_EXPORTERS: Final = tuple(
    PrivateName(package=package, module=module, path=path, use=_NOT_RELAYED, of_instances=True)
    for module, (package, *paths) in _EXPORTERS.items()
    for path in paths
)
_ACTIVE_PROCESSOR: Final = PrivateName(
    package=_SDK,
    module=_TRACE,
    path="TracerProvider._active_span_processor",
    use=_NOT_RELAYED,
    of_instances=True,
)
_PROCESSORS: Final = PrivateName(
    package=_SDK,
    module=_TRACE,
    path="SynchronousMultiSpanProcessor._span_processors",
    use=_NOT_RELAYED,
    of_instances=True,
)
_PROCESSORS_LOCK: Final = PrivateName(
    package=_SDK,
    module=_TRACE,
    path="SynchronousMultiSpanProcessor._lock",
    use=_NOT_RELAYED,
    of_instances=True,
)

NAMES: Final = (_ACTIVE_PROCESSOR, _PROCESSORS, _PROCESSORS_LOCK, *_OF_EXPORTERS)


def processors_of(provider: object) -> tuple[SpanProcessor, ...]:
    """Return the processors of a provider of the SDK's; nothing if that can't be told."""
    active = _ACTIVE_PROCESSOR.read(provider)
    if type(active) not in {SynchronousMultiSpanProcessor, ConcurrentMultiSpanProcessor}:
        return ()
    found: tuple[SpanProcessor, ...] = _PROCESSORS.read(active, ())
    return found


def change_processors(
    provider: object, change: Callable[[tuple[SpanProcessor, ...]], tuple[SpanProcessor, ...]]
) -> None:
    """Replace the processors of a provider whose processors ``processors_of`` returns."""
    active: Any = _ACTIVE_PROCESSOR.read(provider)
    lock = _PROCESSORS_LOCK.read(active)
    if lock is None or not processors_of(provider):
        return
    with lock:  # which the SDK holds while it adds one
        active._span_processors = change(active._span_processors)


class HttpExporterFields(NamedTuple):
    """What an OTLP exporter over HTTP was made with."""

    endpoint: Any
    compression: Any
    timeout: Any
    session: Any
    verify: Any
    cert: Any
    headers: Mapping[str, Any] = MappingProxyType({})
    """Those that the session doesn't have."""


_http_fields: Final = attrgetter(
    *("_endpoint", "_compression", "_client._timeout"),
    *("_client._transport._session", "_client._transport._session.verify"),
    *("_client._transport._session.cert", "_client._headers"),
)
_http_fields_before_1_45: Final = attrgetter(
    *("_endpoint", "_compression", "_timeout", "_session"), *("_certificate_file", "_client_cert")
)


def http_exporter_fields(exporter: object) -> HttpExporterFields | None:
    """Return what an OTLP exporter over HTTP was made with; None if that can't be told."""
    with suppress(AttributeError):
        return HttpExporterFields(*_http_fields(exporter))
    with suppress(AttributeError):
        return HttpExporterFields(*_http_fields_before_1_45(exporter))
    return None


class GrpcExporterFields(NamedTuple):
    """What an OTLP exporter over gRPC was made with."""

    endpoint: Any
    insecure: Any
    headers: Any
    timeout: Any
    compression: Any
    channel_options: Any


_grpc_fields: Final = attrgetter(
    *("_endpoint", "_insecure", "_headers", "_timeout", "_compression", "_channel_options")
)


def grpc_exporter_fields(exporter: object) -> GrpcExporterFields | None:
    """Return what an OTLP exporter over gRPC was made with; None if that can't be told.

    It keeps `_insecure` and `_compression` since 1.40, and `_channel_options` since 1.35.
    """
    with suppress(AttributeError):
        return GrpcExporterFields(*_grpc_fields(exporter))
    return None
