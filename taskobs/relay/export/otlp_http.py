"""Sends through OpenTelemetry's OTLP/HTTP exporter, and reads what the backend responds.

The exporter tells only whether it went well, and repeats requests by itself, each release in its
own way, for up to a minute and without a way to stop it. So it gets a session whose adapters keep
the response, and give the exporter one that it does not repeat a request for.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib.metadata import entry_points
from io import BytesIO
from typing import Any, Final, cast

import requests
from requests.adapters import BaseAdapter

from taskobs.internal.causes import innermost, masked, secrets_of_headers, secrets_of_url
from taskobs.protocol.otlp.request_body import RequestBody
from taskobs.relay.export import hints, responses
from taskobs.relay.export.otlp_messages import error_message, partial_success
from taskobs.relay.export.responses import RETRIED, ExportResult, ExportStatus

_BODY: Final = 64 * 1024
_REFUSED: Final = 400
_SERVER_ERRORS: Final = 500
_PAGE: Final = "answered by a web page"
_PROVIDERS: Final = "opentelemetry_otlp_credential_provider"
_PROVIDER: Final = "OTEL_PYTHON_EXPORTER_OTLP_HTTP_{signal}CREDENTIAL_PROVIDER"


class HttpExporterAdapter:
    """Sends through one exporter. Not thread-safe."""

    encodes = True

    def __init__(self, kind: Any, signal: str, options: Mapping[str, object]) -> None:  # noqa: ANN401  # three exporters, no common class
        """``kind`` is an exporter's class, ``signal`` one of TRACES, METRICS, LOGS."""
        self._results: list[ExportResult] = []
        session = _session(signal, self._results)
        self._body = RequestBody(session)
        self._exporter = kind(session=session, **options)

    def send_encoded(self, request: bytes) -> ExportResult | None:
        """Send an OTLP request once, with the exporter's address, headers and compression."""
        with self._body.of(request) as body:
            result = self.send(())
        return result if body.was_sent else None

    def send(self, telemetry: object) -> ExportResult | None:
        """Export once; None if nothing was sent, for a reason that the exporter has logged."""
        self._results.clear()
        self._exporter.export(telemetry)
        return self._results[-1] if self._results else None

    def close(self) -> None:
        """Close its connections."""
        self._exporter.shutdown()


class _RecordingAdapter(BaseAdapter):
    """Keeps the results of requests that another adapter makes."""

    def __init__(self, inner: BaseAdapter, results: list[ExportResult], signal: str) -> None:
        super().__init__()
        self._inner = inner
        self._results = results
        self._signal = signal

    def send(  # noqa: PLR0913, PLR0917  # as requests has it
        self,
        request: requests.PreparedRequest,
        stream: bool = False,  # noqa: FBT001, FBT002, ARG002  # same
        timeout: Any = None,  # noqa: ANN401  # same
        verify: Any = True,  # noqa: ANN401, FBT002  # same
        cert: Any = None,  # noqa: ANN401  # same
        proxies: Any = None,  # noqa: ANN401  # same
    ) -> requests.Response:
        """Send, and return a response after which no exporter repeats the request."""
        url = request.url or ""
        try:
            # Streamed, as ``_read`` bounds how much of the response is read.
            real = self._inner.send(request, True, timeout, verify, cert, proxies)  # noqa: FBT003
            body = _read(real)
        except requests.RequestException as error:
            hint = hints.of_error(innermost(error), url)
            self._results.append(responses.of_error(error, hint))
            return _response(request, _REFUSED, responses.NO_RESPONSE)
        self._results.append(self._result(real, body, url))
        repeated = real.status_code in RETRIED or real.status_code >= _SERVER_ERRORS
        given = _response(request, _REFUSED if repeated else real.status_code, real.reason, body)
        given.headers = real.headers
        return given

    def _result(self, real: requests.Response, body: bytes, url: str) -> ExportResult:
        content_type = real.headers.get("Content-Type", "")
        secrets = {*secrets_of_headers(real.request.headers.items()), *secrets_of_url(url)}
        message = "" if real.ok else error_message(body, content_type, secrets)
        hint = hints.of_status(real.status_code, url, self._signal)
        detail = ": ".join(filter(None, (message, hint)))
        result = responses.of_status(real.status_code, real.headers.get("Retry-After"), detail)
        if result.status is not ExportStatus.SUCCESS:
            return result
        if _is_page(body, content_type):
            return ExportResult(ExportStatus.DROP, _PAGE, hints.WEB_PAGE)
        accepted = partial_success(body, content_type, self._signal)
        return accepted._replace(detail=masked(accepted.detail, secrets))

    def close(self) -> None:
        """Close its connections."""
        self._inner.close()


class _NoAdapter(BaseAdapter):
    """Refuses URLs that are neither http nor https."""

    def send(self, request: requests.PreparedRequest, *_: Any, **__: Any) -> requests.Response:  # noqa: ANN401  # as requests has it
        return _response(request, _REFUSED, "", b"neither http:// nor https://")

    def close(self) -> None:
        """Nothing is open."""


def _session(signal: str, results: list[ExportResult]) -> requests.Session:
    """Return the session of the credential provider that is asked for, or a new one."""
    session = requests.Session()
    names = (_PROVIDER.format(signal=""), _PROVIDER.format(signal=f"{signal}_"))
    provider = next(filter(None, map(os.environ.get, names)), None)
    if provider:
        found = next(iter(entry_points(group=_PROVIDERS, name=provider)))
        session = _copied(cast("requests.Session", found.load()()))
    for prefix, adapter in list(session.adapters.items()):
        session.mount(prefix, _RecordingAdapter(adapter, results, signal.lower()))
    session.mount("", _RecordingAdapter(_NoAdapter(), results, signal.lower()))
    return session


def _copied(session: requests.Session) -> requests.Session:
    """Return a copy with adapters and headers of its own: all signals may be given one session.

    ``copy`` would leave out what a provider's class adds to a session.
    """
    found = session.__class__.__new__(session.__class__)
    vars(found).update(vars(session))
    theirs = cast("Any", session)
    found.adapters, found.headers = theirs.adapters.copy(), theirs.headers.copy()
    return found


def _is_page(body: bytes, content_type: str) -> bool:
    """Tell whether a response is a web page; some proxies call their empty responses so, too."""
    return content_type.startswith("text/html") and body.lstrip().startswith(b"<")


def _read(response: requests.Response) -> bytes:
    """Read the body, but not more of it than is of use."""
    body = b""
    for piece in response.iter_content(_BODY):
        body += piece
        if len(body) > _BODY:
            response.close()
            return body[:_BODY]
    return body


def _response(
    request: requests.PreparedRequest, status: int, reason: str, body: bytes = b""
) -> requests.Response:
    response = requests.Response()
    response.status_code = status
    response.reason = reason
    response.url = request.url or ""
    response.request = request
    response.raw = BytesIO(body)
    return response
