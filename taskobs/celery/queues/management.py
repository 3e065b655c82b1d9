"""Asks the management API of RabbitMQ for what AMQP doesn't say."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final, NamedTuple, cast
from urllib.parse import quote, unquote, urlsplit

import urllib3

_PORT: Final = 15672
_OK: Final = 200
_TIME: Final = 3.0
"""Seconds for a connection, and for an answer."""
_COLUMNS: Final = "messages_unacknowledged,head_message_timestamp"


class ManagementError(Exception):
    """The API can't be asked; the message says why, and has no password in it."""


class QueueDetails(NamedTuple):
    """What the API says of a queue; its statistics are some seconds old."""

    unacked: int | None
    head_at: float | None
    """The ``timestamp`` of the oldest message, in seconds since the epoch."""


class Management:
    """The management API of one broker.

    ``url`` is its address, which may hold user name and password; without those, the broker's are
    used. Without a URL it is looked for at port 15672 of the broker's host; not if the broker is
    reached by TLS, as the password would go out in clear.
    """

    def __init__(self, url: str | None, connection: Any) -> None:
        self._vhost = quote(connection.virtual_host or "/", safe="")
        self._pool = urllib3.PoolManager(retries=False, timeout=_TIME)
        self._missing = ""
        if url is None and connection.ssl:
            self._missing = "RabbitMQ's management API is not configured: set --broker-api"
        host = connection.hostname or "localhost"
        given = urlsplit(url or f"http://{f'[{host}]' if ':' in host else host}:{_PORT}")
        self._base = given._replace(netloc=given.netloc.rpartition("@")[2]).geturl().rstrip("/")
        if not self._base.endswith("/api"):
            self._base += "/api"
        self._headers = _login(given.username, given.password, connection)

    def queue(self, name: str) -> QueueDetails:
        """Ask for one queue.

        Raises:
            ManagementError: it can't be asked, or doesn't answer as it should.
        """
        if self._missing:
            raise ManagementError(self._missing)
        found = self._get(f"/queues/{self._vhost}/{quote(name, safe='')}?columns={_COLUMNS}")
        unacked, head = found.get("messages_unacknowledged"), found.get("head_message_timestamp")
        return QueueDetails(
            unacked=unacked if isinstance(unacked, int) else None,
            head_at=float(head) if isinstance(head, (int, float)) else None,
        )

    def _get(self, path: str) -> Mapping[str, Any]:
        try:
            answer = self._pool.request(
                "GET", f"{self._base}{path}", headers=self._headers, redirect=False
            )
        except urllib3.exceptions.HTTPError as error:
            raise ManagementError(self._said(type(error).__name__)) from None
        if answer.status != _OK:
            raise ManagementError(self._said(f"HTTP {answer.status}"))
        try:
            return cast("Mapping[str, Any]", dict(json.loads(answer.data)))
        except (ValueError, TypeError):
            raise ManagementError(self._said("its answer is no JSON")) from None

    def _said(self, problem: str) -> str:
        where = f"RabbitMQ's management API at {self._base}"
        return f"{where} can't be asked ({problem}): set --broker-api"


def _login(user: str | None, password: str | None, connection: Any) -> dict[str, str]:
    if user is None:
        secret: Any = connection.password or "guest"
        secret = secret() if callable(secret) else secret
        return urllib3.make_headers(basic_auth=f"{connection.userid or 'guest'}:{secret}")
    return urllib3.make_headers(basic_auth=f"{unquote(user)}:{unquote(password or '')}")
