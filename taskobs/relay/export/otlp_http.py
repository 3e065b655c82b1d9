"""Sends through a stock OTLP/HTTP exporter, and hears what the backend answers.

The exporters say only whether it went well, and try again by themselves, each release in its own
way, for up to a minute, while nobody can stop them. So they are given a session whose adapters
keep the answer, and hand on one that is not worth another attempt.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from importlib.metadata import entry_points
from io import BytesIO
from typing import Any, Final, cast

import requests
from requests.adapters import BaseAdapter

from taskobs.relay.export.responses import RETRIED, ExportResult, ExportStatus, of_error, of_status

_BODY: Final = 64 * 1024
_SAID: Final = 200
_REFUSED: Final = 400
_SERVER_ERRORS: Final = 500
_PROVIDERS: Final = "opentelemetry_otlp_credential_provider"
_PROVIDER: Final = "OTEL_PYTHON_EXPORTER_OTLP_HTTP_{signal}CREDENTIAL_PROVIDER"


class HttpExporterAdapter:
    """Sends through one exporter. Not thread-safe."""

    def __init__(self, kind: Any, signal: str, options: Mapping[str, object]) -> None:  # noqa: ANN401  # three exporters, no common class
        """``kind`` is an exporter's class, ``signal`` one of TRACES, METRICS."""
        self._heard: list[ExportResult] = []
        self._exporter = kind(session=_session(signal, self._heard, signal.lower()), **options)

    def send(self, telemetry: object) -> ExportResult | None:
        """Export once; None if nothing went out, for a reason that the exporter has logged."""
        self._heard.clear()
        self._exporter.export(telemetry)
        return self._heard[-1] if self._heard else None

    def close(self) -> None:
        """Close its connections."""
        self._exporter.shutdown()


class _Listening(BaseAdapter):
    """Keeps what comes back, in place of the stock adapter that does the work."""

    def __init__(self, inner: BaseAdapter, heard: list[ExportResult], signal: str) -> None:
        super().__init__()
        self._inner = inner
        self._heard = heard
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
        """Send, and return an answer after which no exporter tries again."""
        try:
            real = self._inner.send(request, True, timeout, verify, cert, proxies)  # noqa: FBT003
            body = _read(real)
        except requests.RequestException as error:
            self._heard.append(of_error(error))
            return _answer(request, _REFUSED, "no answer")
        said = "" if real.ok else body[:_SAID].decode("utf-8", "replace")
        result = of_status(real.status_code, real.headers.get("Retry-After"), said)
        if result.status is ExportStatus.SUCCESS:
            result = _partial(body, real.headers.get("Content-Type", ""), self._signal)
        self._heard.append(result)
        again = real.status_code in RETRIED or real.status_code >= _SERVER_ERRORS
        answered = _answer(request, _REFUSED if again else real.status_code, real.reason, body)
        answered.headers = real.headers
        return answered

    def close(self) -> None:
        """Close its connections."""
        self._inner.close()


class _Unspoken(BaseAdapter):
    """Answers for URLs that are of no known scheme."""

    def send(self, request: requests.PreparedRequest, *_: Any, **__: Any) -> requests.Response:  # noqa: ANN401  # as requests has it
        return _answer(request, _REFUSED, "neither http:// nor https://")

    def close(self) -> None:
        """Nothing is open."""


def _session(signal: str, heard: list[ExportResult], of: str) -> requests.Session:
    """Return the session of the credential provider that is asked for, or a new one."""
    session = requests.Session()
    names = (_PROVIDER.format(signal=""), _PROVIDER.format(signal=f"{signal}_"))
    provider = next(filter(None, map(os.environ.get, names)), None)
    if provider:
        found = next(iter(entry_points(group=_PROVIDERS, name=provider)))
        session = cast("requests.Session", found.load()())
    for prefix, adapter in list(session.adapters.items()):
        session.mount(prefix, _Listening(adapter, heard, of))
    session.mount("", _Listening(_Unspoken(), heard, of))
    return session


def _read(response: requests.Response) -> bytes:
    """Read the body, but not more of it than is of use."""
    body = b""
    for piece in response.iter_content(_BODY):
        body += piece
        if len(body) > _BODY:
            response.close()
            return body[:_BODY]
    return body


def _answer(
    request: requests.PreparedRequest, status: int, reason: str, body: bytes = b""
) -> requests.Response:
    response = requests.Response()
    response.status_code = status
    response.reason = reason
    response.url = request.url or ""
    response.request = request
    response.raw = BytesIO(body)
    return response


def _partial(body: bytes, content_type: str, signal: str) -> ExportResult:
    """Read how much of an accepted batch the backend has thrown away."""
    rejected, message = 0, ""
    if body and "json" in content_type:
        rejected, message = _of_json(body)
    elif body:
        rejected, message = of_message(body, signal)
    return ExportResult(
        ExportStatus.SUCCESS, "rejected by the backend", message[:_SAID], rejected=rejected
    )


def of_message(body: bytes, signal: str) -> tuple[int, str]:
    """Read the partial success out of a serialized response."""
    if signal != "traces":
        return 0, ""
    from google.protobuf.message import DecodeError
    from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as service

    response = service.ExportTraceServiceResponse()
    try:
        response.ParseFromString(body)
    except DecodeError:
        return 0, ""  # some backend's words of its own
    partial = response.partial_success
    return max(0, partial.rejected_spans), partial.error_message


def _of_json(body: bytes) -> tuple[int, str]:
    try:
        partial: Any = json.loads(body)["partialSuccess"]
        return max(0, int(partial.get("rejectedSpans", 0))), str(partial.get("errorMessage", ""))
    except (ValueError, LookupError, TypeError, AttributeError):
        return 0, ""
