"""Posts envelopes to one Sentry server, and reads what it answers.

``sentry_sdk``'s own transport drops what it can't send at once, so the relay does not use it, and
does not import it: that saves 4 MB.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable, Mapping
from typing import Any, Final, cast

import urllib3

from taskobs.internal.causes import masked
from taskobs.relay.export.responses import (
    TOO_LARGE,
    ExportResult,
    ExportStatus,
    of_error,
    of_status,
)
from taskobs.relay.export.sentry_connections import NO_RETRIES, connect
from taskobs.relay.export.sentry_dsn import parse_dsn
from taskobs.relay.export.sentry_limits import RateLimits

TIMEOUT: Final = 10.0
_LEVEL: Final = 3
"""Of gzip: the usual 6 takes twice as long, for a few percent of an event's size."""
_BODY: Final = 16 * 1024
_SAID: Final = 200
_TOO_MANY: Final = 429
_REFUSED: Final = 400
_SERVER_ERRORS: Final = 500


class SentryPoster:
    """Sends to one Sentry, as the DSN and options of its client say. Thread-safe."""

    def __init__(self, dsn: str, options: Mapping[str, Any], *, connections: int = 1) -> None:
        """Raises ``ValueError`` and what urllib3 does, for what can't be used."""
        parsed = parse_dsn(dsn)
        self.address = parsed.address
        self._url = parsed.envelope_url
        self._headers = {
            **parsed.headers,
            "Content-Type": "application/x-sentry-envelope",
            "Content-Encoding": "gzip",
        }
        self._secrets = tuple(filter(None, (parsed.public_key, parsed.secret_key)))
        self._pool = connect(parsed, options, timeout=TIMEOUT, connections=connections)
        self._limits = RateLimits()

    def send(self, envelope: bytes) -> ExportResult:
        """Send once, unless a rate limit forbids it."""
        limited = self._limits.check(envelope)
        if limited is not None:
            return limited
        body = gzip.compress(envelope, _LEVEL)
        try:
            status, headers, said = self._request(body)
        except Exception as error:  # noqa: BLE001  # urllib3's, and whatever is below it
            return of_error(error)
        self._limits.note(status, headers)
        if status == _TOO_MANY:
            return self._limits.check(envelope) or of_status(status, headers.get("Retry-After"))
        if status == TOO_LARGE:
            said = f"{_megabytes(envelope)}, {_megabytes(body)} compressed: {said}".rstrip(": ")
        return _judge(status, headers.get("Retry-After"), said)

    def close(self) -> None:
        """Close idle connections; one in use is closed when its request has ended."""
        self._pool.clear()

    def _request(self, body: bytes) -> tuple[int, Mapping[str, str], str]:
        # The body of the response is read here, so that no more of it is read than is of use.
        response = cast(
            "urllib3.response.HTTPResponse",
            self._pool.request(
                "POST",
                self._url,
                body=body,
                headers=self._headers,
                preload_content=False,
                retries=NO_RETRIES,
            ),
        )
        try:
            read = response.read(_BODY)
        finally:
            response.close()  # does nothing if all was read: then the connection is used again
        said = _message(read, self._secrets) if _is_error(response) else ""
        return response.status, response.headers, said


def _is_error(response: urllib3.response.HTTPResponse) -> bool:
    return response.status >= _REFUSED


def _judge(status: int, retry_after: str | None, said: str) -> ExportResult:
    result = of_status(status, retry_after, said)
    if result.status is ExportStatus.TOO_LARGE:
        return result._replace(status=ExportStatus.DROP)  # an envelope has no halves
    if result.status is ExportStatus.DROP and status >= _SERVER_ERRORS:
        return result._replace(status=ExportStatus.FAILED)
    return result


def _message(body: bytes, secrets: Iterable[str]) -> str:
    """Return what Sentry says of an error, ``{"detail": ...}``, or a proxy; without secrets."""
    try:
        found: Any = json.loads(body)
        text = str(found["detail"])
    except (ValueError, LookupError, TypeError, RecursionError):
        text = body.decode("utf-8", "replace")
    # Masked before it is cut: a part of a key would not be found.
    return masked(" ".join(text.split()), secrets)[:_SAID]


def _megabytes(data: bytes) -> str:
    return f"{len(data) / 1e6:.1f} MB"
