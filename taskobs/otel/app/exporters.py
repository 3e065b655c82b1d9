"""The settings of the app's own exporters, with which the relay can export in their place.

Only of what is exactly OpenTelemetry's: a batch or simple processor with an OTLP exporter over HTTP
or gRPC. A subclass, an object or class with a method that somebody has replaced, and an exporter
that was given a session or credentials may do more than its settings say, such as leave out spans
with secrets. These go on exporting by themselves.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FunctionType
from typing import Any, Final, cast

from opentelemetry.sdk.trace import SpanProcessor
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SimpleSpanProcessor

from taskobs.otel.app._compat import grpc_exporter_fields, http_exporter_fields
from taskobs.protocol.frames import pack
from taskobs.protocol.sanitize import UNEXPECTED

HTTP: Final = "opentelemetry.exporter.otlp.proto.http.trace_exporter"
GRPC: Final = "opentelemetry.exporter.otlp.proto.grpc.trace_exporter"
_PROCESSORS: Final = (BatchSpanProcessor, SimpleSpanProcessor)
_CALLED: Final = ("on_start", "on_end", "export")
_PER_REQUEST: Final = frozenset({"content-type", "content-encoding"})
_SESSION: Final = ("auth", "proxies", "hooks", "params", "stream", "trust_env", "max_redirects")


def are_imported() -> bool:
    """Tell whether something has imported one of the exporters."""
    return HTTP in sys.modules or GRPC in sys.modules


def settings_of(processor: SpanProcessor) -> bytes | None:
    """Return the packed settings of a processor's exporter; None if the relay can't have them."""
    if type(processor) not in _PROCESSORS or is_patched(processor):
        return None
    exporter: Any = getattr(processor, "span_exporter", None)
    try:
        found = settings_of_exporter(exporter, "OTLPSpanExporter", (HTTP, GRPC))
        return None if found is None else pack(found)
    except UNEXPECTED:  # another release, or settings that nobody expects
        return None


def settings_of_exporter(
    exporter: object, name: str, modules: tuple[str, str], calls: Sequence[str] = _CALLED
) -> dict[str, object] | None:
    """Return the settings of an exporter; None if the relay can't have them.

    ``name`` is that of its class in either of the ``modules``, for HTTP and for gRPC. Raises
    whatever settings may cause that nobody expects.
    """
    http, grpc = (_is(exporter, module, name) for module in modules)
    if not (http or grpc) or is_patched(exporter, calls):
        return None
    return _http_settings(exporter) if http else _grpc_settings(exporter)


def _is(exporter: object, module: str, name: str) -> bool:
    kind = getattr(sys.modules.get(module), name, None)
    return kind is not None and type(exporter) is kind


def is_patched(one: object, calls: Sequence[str] = _CALLED) -> bool:
    """Tell whether a method of a processor, reader or exporter has been replaced."""
    if not vars(one).keys().isdisjoint(calls):
        return True
    return any(
        name in vars(kind) and not _is_of(kind.__module__, vars(kind)[name])
        for kind in type(one).__mro__
        for name in calls
    )


def _is_of(module: str, function: object) -> bool:
    # By its code, as a function that wraps another one often takes over its name and module.
    code = getattr(function, "__code__", None)
    file = getattr(sys.modules.get(module), "__file__", None)
    return type(function) is FunctionType and code is not None and code.co_filename == file


def _http_settings(exporter: Any) -> dict[str, object] | None:  # noqa: ANN401  # the SDK's
    fields = http_exporter_fields(exporter)
    if fields is None or not _is_plain(fields.session):
        return None
    certificate_file, key_file, client_file = _files(fields.verify, fields.cert)
    sent = {**_added(fields.session), **fields.headers}
    return {
        "protocol": "http/protobuf",
        "endpoint": _text(fields.endpoint),
        "headers": _headers({k: v for k, v in sent.items() if k.lower() not in _PER_REQUEST}),
        "timeout": float(fields.timeout),
        "compression": _text(fields.compression.value),
        "certificate_file": certificate_file,
        "client_key_file": key_file,
        "client_certificate_file": client_file,
    }


def _is_plain(session: Any) -> bool:  # noqa: ANN401  # a session of requests
    """Tell whether a session is as the exporter makes one, but for its headers."""
    import requests
    from requests.adapters import HTTPAdapter

    fresh = requests.Session()
    return (
        type(session) is requests.Session
        and vars(session).keys() == vars(fresh).keys()
        and all(getattr(session, name) == getattr(fresh, name) for name in _SESSION)
        and not len(session.cookies)
        and session.adapters.keys() == fresh.adapters.keys()
        and all(
            type(one) is HTTPAdapter and one.max_retries.total == 0
            for one in session.adapters.values()
        )
    )


def _added(session: Any) -> dict[str, str]:  # noqa: ANN401  # as above
    """Return the headers of a session that a new one hasn't."""
    import requests

    usual = requests.Session().headers
    return {name: text for name, text in session.headers.items() if usual.get(name) != text}


def _files(verify: object, cert: object) -> tuple[str | None, str | None, str | None]:
    """Return the files of certificate authorities, of the client's key and of its certificate."""
    authorities = None if verify is True else _path(verify)
    if cert is None:
        return authorities, None, None
    if isinstance(cert, tuple):
        certificate, key = cast("tuple[object, object]", cert)
        return authorities, _path(key), _path(certificate)
    return authorities, None, _path(cert)


def _path(value: object) -> str:
    return str(Path(_text(value)).absolute())


def _headers(headers: Mapping[object, object]) -> dict[str, str]:
    return {_text(name): _text(value) for name, value in sorted(headers.items())}


def _text(value: object) -> str:
    """Return a text; anything else is no setting that the relay can use."""
    if not isinstance(value, str):
        raise TypeError(f"{type(value).__name__} in the place of a text")
    return value


def _grpc_settings(exporter: Any) -> dict[str, object] | None:  # noqa: ANN401  # the SDK's
    fields = grpc_exporter_fields(exporter)
    # Its credentials don't say what they were made of, so only the one without any is taken.
    if fields is None or not fields.insecure:
        return None
    return {
        "protocol": "grpc",
        "endpoint": _text(fields.endpoint),
        "insecure": True,
        "headers": _headers(dict(fields.headers)),
        "timeout": float(fields.timeout),
        "compression": fields.compression.name,
        "channel_options": [[_text(name), value] for name, value in fields.channel_options],
    }
