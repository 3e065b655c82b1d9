"""An HTTP proxy that forwards what it is asked to, and remembers by whom it was asked how."""

from __future__ import annotations

import socket
import threading
from collections.abc import Generator
from contextlib import closing, contextmanager, suppress
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import cast
from urllib.parse import urlsplit


class Proxy:
    """Forwards requests with a whole URL, and opens tunnels for CONNECT."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, dict[str, str]]] = []
        """Method, target and headers of each request."""
        self.server = _Server(self)
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True)
        self.thread.start()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.server.server_port}"

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, proxy: Proxy) -> None:
        self.proxy = proxy
        super().__init__(("127.0.0.1", 0), _Handler)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        self._note()
        target = urlsplit(self.path)
        body = self.rfile.read(int(self.headers["Content-Length"]))
        with closing(HTTPConnection(target.netloc)) as onward:
            onward.request("POST", target.path, body, dict(self.headers))
            response = onward.getresponse()
            content = response.read()
        self.send_response(response.status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def do_CONNECT(self) -> None:
        self._note()
        host, _, port = self.path.rpartition(":")
        with socket.create_connection((host, int(port))) as onward:
            self.send_response(200)
            self.end_headers()
            back = threading.Thread(target=_pump, args=(onward, self.connection), daemon=True)
            back.start()
            _pump(self.connection, onward)
            back.join()
        self.close_connection = True

    def _note(self) -> None:
        asked = (self.command, self.path, dict(self.headers))
        cast("_Server", self.server).proxy.asked.append(asked)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the base's name
        """Write no access log."""


def _pump(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
    with suppress(OSError):
        target.shutdown(socket.SHUT_WR)


@contextmanager
def proxy() -> Generator[Proxy]:
    """Have a proxy for the length of a block."""
    made = Proxy()
    try:
        yield made
    finally:
        made.close()
