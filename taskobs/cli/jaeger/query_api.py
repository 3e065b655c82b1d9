"""Asks Jaeger's query API: the one that Jaeger's own pages use (tested with Jaeger 2)."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from typing import Any, Final, cast
from urllib.parse import quote, unquote, urlencode, urlsplit

import urllib3

from taskobs.view.tree import printable

_CONNECT: Final = 3.0
_READ: Final = 30.0
"""Seconds for an answer: a search may read much of Jaeger's storage."""
_OK: Final = 200
_NOT_FOUND: Final = 404
_MOST: Final = 20
"""Traces that one search returns."""
_DAY: Final = 86_400
_AHEAD: Final = 3_600
"""Seconds that a producer's clock may be ahead of this machine's."""


class QueryError(Exception):
    """The API can't be asked; the message says why, and has no password in it."""


class QueryApi:
    """The query API of one Jaeger.

    ``url`` is the address of its pages, such as ``http://localhost:16686``; it may hold user name
    and password.

    Raises:
        QueryError: it is no such address.
    """

    def __init__(self, url: str) -> None:
        try:
            given = urlsplit(url.strip())
            port = given.port
        except ValueError:
            raise QueryError("the address of Jaeger has an impossible host or port") from None
        if given.scheme not in {"http", "https"} or not given.hostname or port == 0:
            raise QueryError("the address of Jaeger must be a URL, such as http://localhost:16686")
        plain = given._replace(netloc=given.netloc.rpartition("@")[2], query="", fragment="")
        self.address = plain.geturl().rstrip("/").removesuffix("/api")
        """The address of its pages, without user name and password."""
        timeout = urllib3.Timeout(connect=_CONNECT, read=_READ)
        self._pool = urllib3.PoolManager(retries=False, timeout=timeout)
        self._headers = _login(given.username, given.password)

    def page(self, trace_id: str) -> str:
        """Return the address of the page that shows a trace."""
        return f"{self.address}/trace/{trace_id}"

    def trace(self, trace_id: str) -> list[object]:
        """Return the trace of an id, in a list; an empty one if there is none.

        Raises:
            QueryError: the API can't be asked, or doesn't answer as it should.
        """
        return _list(self._get(f"/traces/{quote(trace_id, safe='')}"))

    def services(self) -> list[str]:
        """Return the names of all services; raises as ``trace`` does."""
        return sorted(map(str, _list(self._get("/services"))))

    def search(self, service: str, tag: str, value: str, *, days: float) -> list[object]:
        """Return traces of a service that have a span with this tag; raises as ``trace`` does."""
        now = time.time()
        asked = {
            "service": service,
            "tags": json.dumps({tag: value}),
            "start": int((now - days * _DAY) * 1e6),
            "end": int((now + _AHEAD) * 1e6),
            "limit": _MOST,
        }
        return _list(self._get(f"/traces?{urlencode(asked)}"))

    def _get(self, path: str) -> object:
        """Return what is under ``data``; None for what Jaeger says that it doesn't have."""
        try:
            answer = self._pool.request(
                "GET", f"{self.address}/api{path}", headers=self._headers, redirect=False
            )
        except urllib3.exceptions.HTTPError as error:
            raise QueryError(
                f"nothing answers at {self.address} ({type(error).__name__})"
            ) from None
        found = _json(answer.data)
        if answer.status == _NOT_FOUND and "errors" in found:
            return None
        if answer.status != _OK:
            raise QueryError(f"{self.address} answers with HTTP {answer.status}{_said(found)}")
        if "data" not in found:
            raise QueryError(f"what answers at {self.address} is no query API of Jaeger")
        return found["data"]


def _login(user: str | None, password: str | None) -> dict[str, str]:
    if user is None:
        return {}
    return urllib3.make_headers(basic_auth=f"{unquote(user)}:{unquote(password or '')}")


def _json(body: bytes) -> Mapping[str, Any]:
    try:
        found: object = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return cast("Mapping[str, Any]", found) if isinstance(found, dict) else {}


def _said(found: Mapping[str, Any]) -> str:
    """Return Jaeger's own message, if it gives one."""
    errors = _list(found.get("errors"))
    first = errors[0] if errors else None
    message = cast("Mapping[str, object]", first).get("msg") if isinstance(first, dict) else None
    return f": {printable(message)}" if message else ""


def _list(value: object) -> list[object]:
    return cast("list[object]", value) if isinstance(value, list) else []
