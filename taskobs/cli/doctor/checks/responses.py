"""What to do about a response of a server: a plain table."""

from __future__ import annotations

import re
from typing import Final, NamedTuple
from urllib.parse import urlsplit

from taskobs.cli.doctor.evidence import Response
from taskobs.cli.doctor.finding import Finding, broken, ok, unknown, warning
from taskobs.config import checks
from taskobs.relay.export.responses import NO_RESPONSE, ExportResult, ExportStatus

_ENDPOINT: Final = "OTEL_EXPORTER_OTLP_ENDPOINT"


class Remedy(NamedTuple):
    """A line that mends what a response says: one for OTLP, one for Sentry."""

    pattern: re.Pattern[str]
    otlp: str
    sentry: str


def _remedy(pattern: str, otlp: str, sentry: str) -> Remedy:
    return Remedy(re.compile(pattern, re.IGNORECASE), otlp, sentry)


_NOT_SENTRY: Final = "copy the DSN anew: in Sentry, Settings > Projects > Client Keys (DSN)"
REMEDIES: Final = (
    _remedy(
        "CERTIFICATE_VERIFY_FAILED|certificate verify|SSLCertVerificationError",
        "export OTEL_EXPORTER_OTLP_CERTIFICATE=/path/to/ca.pem",
        "export SSL_CERT_FILE=/path/to/ca.pem",
    ),
    _remedy(
        "WRONG_VERSION_NUMBER|try http://",
        f"export {_ENDPOINT}=http://{{host}}  # the server does not use TLS",
        "write http:// in the place of https:// in SENTRY_DSN",
    ),
    _remedy(
        "seems to be for gRPC|BadStatusLine",
        "export OTEL_EXPORTER_OTLP_PROTOCOL=grpc  # or the port for HTTP, usually 4318",
        _NOT_SENTRY,
    ),
    _remedy(
        "Connection reset|RemoteDisconnected|hung up",
        "export OTEL_EXPORTER_OTLP_PROTOCOL=grpc  # if {host} is for gRPC; or look into its log",
        "look into the log of the server at {host}",
    ),
    _remedy(
        "seems to be for OTLP over HTTP|Expected SETTINGS|http1",
        "export OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf  # or the port for gRPC, usually 4317",
        _NOT_SENTRY,
    ),
    _remedy(
        "SSL",
        "openssl s_client -connect {host}  # shows what is wrong with TLS",
        "openssl s_client -connect {host}  # shows what is wrong with TLS",
    ),
    _remedy(
        "Tunnel connection failed|ProxyError|HTTP 407",
        "export NO_PROXY={name}",
        "export NO_PROXY={name}",
    ),
    _remedy(
        "Name or service not known|getaddrinfo|name resolution|gaierror|DNS resolution",
        f"export {_ENDPOINT}=<a host that this machine can resolve>",
        "write a host that this machine can resolve in SENTRY_DSN",
    ),
    _remedy(
        "refused",
        f"start the server at {{host}}, or export {_ENDPOINT}=<where it listens>; inside a "
        "container, localhost is the container",
        "start the server at {host}; inside a container, localhost is the container",
    ),
    _remedy(
        "timed out|timeout|DEADLINE",
        "let this machine reach {host} (firewall, network policy)",
        "let this machine reach {host} (firewall, network policy)",
    ),
    _remedy(
        "HTTP 401|HTTP 403|UNAUTHENTICATED|PERMISSION_DENIED",
        'export OTEL_EXPORTER_OTLP_HEADERS="authorization=Bearer%20<token>"',
        _NOT_SENTRY,
    ),
    _remedy(
        "HTTP 404|HTTP 405|UNIMPLEMENTED",
        f"export {_ENDPOINT}=<the address before /v1/traces>",
        _NOT_SENTRY,
    ),
    _remedy(
        "HTTP 413|TOO_LARGE|larger than max",
        "raise the server's limit of a request's size",
        "raise the server's limit of an event's size",
    ),
    _remedy(
        "HTTP 429|rate limit|RESOURCE_EXHAUSTED",
        "raise the quota at the backend, or taskobs.init(sample_rate=0.1)",
        "raise the quota in Sentry, or send fewer errors: taskobs.init(tasks={...})",
    ),
)
"""The first whose pattern is in a response counts."""
_ANYTHING: Final = "look into the log of the server at {host}"
_NO_METRICS: Final = frozenset({"HTTP 404", "HTTP 405", "HTTP 501", "gRPC UNIMPLEMENTED"})
"""What backends answer that have spans alone."""


def judge(response: Response, *, proxied: bool = False) -> Finding:
    """Say what a response means, and what to do."""
    shown, result = checks.without_credentials(response.url), response.result
    if result.status is ExportStatus.SUCCESS and result.rejected:
        what = f"{shown} has accepted the request and dropped what was in it: {result.detail}"
        return broken(what, _format("look into the configuration of {host}", response.url))
    if result.status is ExportStatus.SUCCESS:
        return ok(f"{shown} accepts {response.signal}")
    if response.signal == "metrics" and result.reason in _NO_METRICS:
        what = f"{shown} takes no metrics ({result.reason})"
        return warning(what, "export OTEL_METRICS_EXPORTER=none")
    through = " through the proxy of this environment" if proxied else ""
    what = f"{shown} does not accept {response.signal}{through}: {result.text}"
    return broken(what, fix_of(response.signal, response.url, result, proxied=proxied))


def worst(responses: list[Response], proxied: set[str], otherwise: str) -> Finding:
    """Judge all responses to one signal, and return the worst."""
    if not responses:
        return unknown(otherwise)
    findings = [judge(one, proxied=one.url in proxied) for one in responses]
    order = ("broken", "warning", "unknown", "ok")
    return min(findings, key=lambda finding: order.index(finding.status.value))


def fix_of(signal: str, url: str, result: ExportResult, *, proxied: bool = False) -> str:
    """Return the line that mends what a server has said."""
    if proxied and result.reason == NO_RESPONSE:
        return _format("export NO_PROXY={name}", url)
    for remedy in REMEDIES:
        if remedy.pattern.search(result.text):
            return _format(remedy.sentry if signal == "errors" else remedy.otlp, url)
    return _format(_ANYTHING, url)


def _format(text: str, url: str) -> str:
    parts = urlsplit(url if "://" in url else f"//{url}")
    host = parts.netloc.rpartition("@")[2] or url
    return text.format(host=host, name=parts.hostname or host)
