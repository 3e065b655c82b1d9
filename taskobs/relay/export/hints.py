"""What is probably wrong with an endpoint that does not work, and how to set it right.

No hint contains a part of the endpoint, as that may be a secret.
"""

from __future__ import annotations

import ssl
from http.client import BadStatusLine, RemoteDisconnected
from typing import Final
from urllib.parse import urlsplit

_NOT_FOUND: Final = frozenset({404, 405})
_GRPC_PORT: Final = 4317
_USE_HTTP: Final = (
    "port {port} seems to be for gRPC: use the port for OTLP over HTTP, usually 4318, "
    "or set OTEL_EXPORTER_OTLP_PROTOCOL=grpc"
)
_USE_GRPC: Final = (
    "the port seems to be for OTLP over HTTP: use the port for gRPC, usually 4317, "
    "or set OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf"
)
_NO_TLS: Final = "the server does not seem to use TLS: try http:// instead of https://"
WEB_PAGE: Final = (
    "the endpoint seems to be the address of a web interface, which takes no telemetry: use the "
    "port for OTLP over HTTP, usually 4318"
)
"""For a response that is well, and no response of OTLP."""
_TWICE: Final = (
    "the path ends in {path}{path}: OTEL_EXPORTER_OTLP_ENDPOINT has to end before {path}, "
    "which is added to it"
)
_NOWHERE: Final = (
    "the path does not end in {path}: OTEL_EXPORTER_OTLP_{signal}_ENDPOINT is used as it is, "
    "and usually needs it"
)


def of_error(error: BaseException, url: str) -> str:
    """Return a hint for an HTTP request without a response; empty if there is none.

    ``error`` is the innermost cause.
    """
    port = urlsplit(url).port
    if isinstance(error, ssl.SSLError) and "WRONG_VERSION_NUMBER" in str(error.reason):
        return _NO_TLS
    # A gRPC server answers with frames of HTTP/2, or hangs up. The latter has many other causes.
    no_http = isinstance(error, BadStatusLine) and not isinstance(error, RemoteDisconnected)
    if no_http or (port == _GRPC_PORT and isinstance(error, ConnectionResetError)):
        return _USE_HTTP.format(port=port)
    return ""


def of_status(status: int, url: str, signal: str) -> str:
    """Return a hint for a status of HTTP; ``signal`` is "traces", "metrics" or "logs"."""
    if status not in _NOT_FOUND:
        return ""
    path, usual = urlsplit(url).path.rstrip("/"), f"/v1/{signal}"
    if path.endswith(usual * 2):
        return _TWICE.format(path=usual)
    if not path.endswith(usual):
        return _NOWHERE.format(path=usual, signal=signal.upper())
    return ""


def of_grpc(details: str) -> str:
    """Return a hint for the details of a gRPC error, as grpc's core words them."""
    if "WRONG_VERSION_NUMBER" in details:
        return _NO_TLS
    if "http1" in details or "Expected SETTINGS frame" in details:
        return _USE_GRPC
    return ""
