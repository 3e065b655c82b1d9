"""Serves the page and takes telemetry, for programs and browsers of this machine alone.

A page of another site can send requests to a port of this machine, and by DNS rebinding even
read the answers. So each request has to name this machine as its host; what a browser sends for
a page of another site is refused, but for the page itself, which a link may lead to.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Mapping
from http import HTTPStatus
from typing import Final, cast
from urllib.parse import parse_qsl, urlsplit

from taskobs.testing import wire
from taskobs.testing.http_server import (
    HOST,
    JSON,
    LoopbackServer,
    TelemetryHandler,
    decoded,
    is_telemetry,
)
from taskobs.view.serving.api import Api
from taskobs.view.serving.live_page import LivePage
from taskobs.view.serving.users import Users
from taskobs.view.storage.store import Store

NAMES: Final = (HOST, "localhost", "[::1]")
"""What this machine is called by those who may ask."""
ATTACH: Final = "/api/attach"
IDENTITY: Final = "/api/view"
TRACE: Final = "/api/trace/"
HEADERS: Final = {
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
MAX_SMALL: Final = 4096


class ViewServer(LoopbackServer):
    """Listens from its construction, answers from `start`."""

    def __init__(self, port: int, *, limit: int, stay: float) -> None:
        """Listen; ``limit`` is in bytes, ``stay`` in seconds, see `Users`.

        Raises:
            OSError: the port is in use.
        """
        self.store = Store(limit)
        self.users = Users(stay)
        self.api = Api(self.store, self.users)
        super().__init__(port, _Handler)
        self.page = LivePage(self.server_port)

    def close(self) -> None:
        """Stop; browsers that wait are answered first."""
        self.store.close()
        super().close()


class _Handler(TelemetryHandler):
    @property
    def _view(self) -> ViewServer:
        return cast("ViewServer", self.server)

    def get(self) -> None:
        if not self._is_for_us():
            self._say(HTTPStatus.MISDIRECTED_REQUEST, "This page is for this machine alone.\n")
        elif self.route == "/":
            headers = {
                "Content-Type": "text/html; charset=utf-8",
                "Content-Security-Policy": self._view.page.policy,
            }
            self.write(HTTPStatus.OK, HEADERS | headers, self._view.page.html)
        elif self.route == "/favicon.ico":
            self.write(HTTPStatus.NO_CONTENT, HEADERS, b"")
        elif self._comes_from_elsewhere():
            self._say(HTTPStatus.FORBIDDEN, "Pages of other sites may not ask.\n")
        else:
            self._get_json()

    def _get_json(self) -> None:
        api, options = self._view.api, dict(parse_qsl(urlsplit(self.path).query))
        found: Mapping[str, object] | None = None
        if self.route == "/api/traces":
            found = api.traces(options)
        elif self.route == "/api/changes":
            found = api.changes(options, self._is_asking)
        elif self.route == IDENTITY:
            found = api.identity()
        elif self.route.startswith(TRACE):
            found = api.trace(self.route.removeprefix(TRACE))
        if found is None:
            self._say(HTTPStatus.NOT_FOUND, "There is nothing here.\n")
        else:
            self._give(found)

    def post(self) -> None:
        if not self._is_for_us() or self._comes_from_elsewhere():
            self.close_connection = True  # its body is not read
            self._say(HTTPStatus.FORBIDDEN, "Only programs of this machine may send.\n")
        elif self.route == ATTACH:
            self._attach()
        else:
            self._take()

    def _take(self) -> None:
        try:
            body = self.read_body()
            if is_telemetry(self.route):
                self._view.store.take(decoded(self.route, body))
                self.answer(HTTPStatus.OK)
                return
            status = HTTPStatus.NOT_FOUND
        except ValueError as error:
            status = wire.REFUSALS[type(error)]
        self._view.api.refused += 1
        self.answer(status)

    def _attach(self) -> None:
        self.max_body = MAX_SMALL
        try:
            asked = json.loads(self.read_body())
            pid, name = int(asked["pid"]), str(asked["name"])
        except (ValueError, KeyError, TypeError, RecursionError):
            self.close_connection = True
            self._say(HTTPStatus.BAD_REQUEST, "A process id and a name are needed.\n")
            return
        if self._view.users.attach(pid, name[:64]):
            self._give(self._view.api.identity())
        else:
            self._say(HTTPStatus.SERVICE_UNAVAILABLE, "This page is about to end.\n")

    def _is_asking(self) -> bool:
        """Tell whether the client has not closed its connection, nor this server begun to end."""
        try:
            return bool(self.connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT))
        except BlockingIOError:
            return not self._view.store.closed
        except OSError:
            return False

    def _is_for_us(self) -> bool:
        host = self.headers.get("Host", "").lower()
        return host in {f"{name}:{self._view.server_port}" for name in NAMES}

    def _comes_from_elsewhere(self) -> bool:
        """Tell whether a browser sends it for a page of another site; programs send neither."""
        origin = self.headers.get("Origin")
        if origin is not None and origin != f"http://{self.headers.get('Host', '')}":
            return True
        return self.headers.get("Sec-Fetch-Site", "none") not in {"none", "same-origin"}

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Answer what is not HTTP/1.1, and note where it is what gRPC begins with."""
        if self.requestline.startswith("PRI "):
            self._view.api.grpc += 1
        super().send_error(code, message, explain)

    def _give(self, found: Mapping[str, object]) -> None:
        body = json.dumps(found, separators=(",", ":"), default=str).encode()
        self.write(HTTPStatus.OK, HEADERS | {"Content-Type": JSON}, body)

    def _say(self, status: int, text: str) -> None:
        headers = HEADERS | {"Content-Type": "text/plain; charset=utf-8"}
        self.write(status, headers, text.encode())
