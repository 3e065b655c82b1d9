"""An HTTP server for scrapers: a few pages, each made when it is asked for."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Callable, Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Final, NamedTuple, cast

_log: Final = logging.getLogger("taskobs")
_TEXT: Final = "text/plain; charset=utf-8"
_PATIENCE: Final = 10.0
"""Seconds that a client may take for its request, and between two."""


class ServeError(OSError):
    """The address can't be listened on; the message is one line that says which and why."""


class Page(NamedTuple):
    """What is answered."""

    body: bytes
    content_type: str = _TEXT


Pages = Mapping[str, Callable[[str], Page]]
"""By its path, what makes a page; it is given the ``Accept`` header, and called on any thread."""


class PageServer:
    """Serves pages from a daemon thread, from ``start`` to ``close``."""

    def __init__(self, pages: Pages, *, address: str, port: int) -> None:
        """``port`` 0 is any free port."""
        self._pages = pages
        self._where = address, port
        self._server: _Server | None = None

    def start(self) -> None:
        """Listen.

        Raises:
            ServeError: the port is taken, or the address is none of this machine's.
        """
        address, port = self._where
        try:
            server = self._server = _Server(self._pages, address, port)
        except (OSError, OverflowError) as error:
            raise ServeError(_problem(address, port, error)) from None
        name, interval = "taskobs-metrics-server", {"poll_interval": 0.1}
        Thread(target=server.serve_forever, kwargs=interval, name=name, daemon=True).start()

    def close(self) -> None:
        """Stop listening; twice is once."""
        server, self._server = self._server, None
        if server is not None:
            server.shutdown()
            server.server_close()

    def abandon(self) -> None:
        """In a forked child: close the socket; the parent goes on serving."""
        server, self._server = self._server, None
        if server is not None:
            server.socket.close()

    @property
    def port(self) -> int:
        """The port that it listens on; 0 if it doesn't."""
        return self._server.server_port if self._server is not None else 0

    @property
    def url(self) -> str:
        """Where it is found, without a path."""
        address = self._where[0]
        host = f"[{address}]" if ":" in address else address
        return f"http://{host}:{self.port}"


def _problem(address: str, port: int, error: Exception) -> str:
    number = getattr(error, "errno", None)
    reason = os.strerror(number) if isinstance(number, int) and number > 0 else str(error)
    return f"metrics can't be served at {address}:{port}: {reason}"


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, pages: Pages, address: str, port: int) -> None:
        self.pages = pages
        self.address_family = socket.AF_INET6 if ":" in address else socket.AF_INET
        super().__init__((address, port), _Handler)

    def server_bind(self) -> None:
        # HTTPServer's own asks the DNS for this machine's name, which may take seconds.
        socket.socket.setsockopt(self.socket, socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = address = self.socket.getsockname()
        self.server_name, self.server_port = str(address[0]), int(address[1])

    def handle_error(self, request: object, client_address: object) -> None:
        """Ignore a client that went away."""


class _Handler(BaseHTTPRequestHandler):
    timeout = _PATIENCE
    server_version = "taskobs"
    sys_version = ""

    def do_GET(self) -> None:
        """Answer with a page, and with its body."""
        self.wfile.write(self._answer())

    def do_HEAD(self) -> None:
        """Answer as to GET, without the body."""
        self._answer()

    def _answer(self) -> bytes:
        status, page = self._page()
        self.send_response(status)
        self.send_header("Content-Type", page.content_type)
        self.send_header("Content-Length", str(len(page.body)))
        self.end_headers()
        return page.body

    def _page(self) -> tuple[HTTPStatus, Page]:
        pages = cast("_Server", self.server).pages
        path = self.path.partition("?")[0]
        if path not in pages:
            return HTTPStatus.NOT_FOUND, Page(f"there are: {', '.join(pages)}\n".encode())
        try:
            return HTTPStatus.OK, pages[path](self.headers.get("Accept", ""))
        except Exception:  # noqa: BLE001  # a page is made by whoever has it served
            _log.exception("taskobs: %s can't be made", path)
            return HTTPStatus.INTERNAL_SERVER_ERROR, Page(b"it can't be made; see the log\n")

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the base's name
        """Write no access log."""
