"""The HTTP side of a receiver on loopback: reads what exporters and Sentry's SDK send."""

from __future__ import annotations

import json
import re
import socket
import socketserver
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Final, cast

from taskobs.testing import wire
from taskobs.testing.wire import Received

HOST: Final = "127.0.0.1"
MAX_BODY: Final = 16 * 1024 * 1024
TRACES: Final = "/v1/traces"
LOGS: Final = "/v1/logs"
METRICS: Final = "/v1/metrics"
ENVELOPE: Final = re.compile(r"/api/[^/]+/envelope/?")
PROTOBUF: Final = "application/x-protobuf"
JSON: Final = "application/json"


def is_telemetry(path: str) -> bool:
    """Tell whether telemetry is sent to a path."""
    return path in {TRACES, LOGS, METRICS} or bool(ENVELOPE.fullmatch(path))


def decoded(path: str, body: bytes) -> Sequence[Received]:
    """Decode what was sent to a path, metrics to nothing; raises `wire.MalformedError`."""
    if path == TRACES:
        return wire.spans(body)
    if path == LOGS:
        return wire.logs(body)
    return wire.envelope(body) if ENVELOPE.fullmatch(path) else ()


class LoopbackServer(ThreadingHTTPServer):
    """Serves a port of the loopback from its construction, 0 for any, until `close`.

    With another ``host``, whoever reaches that address may send to it.
    """

    daemon_threads = False
    block_on_close = True
    request_queue_size = 128

    def __init__(
        self, port: int, handler: type[BaseHTTPRequestHandler], *, host: str = HOST
    ) -> None:
        """Listen.

        Raises:
            OSError: the port is in use.
        """
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        super().__init__((host, port), handler)
        self._thread = threading.Thread(
            target=self.serve_forever,
            kwargs={"poll_interval": 0.05},
            name="taskobs-receiver",
            daemon=True,
        )

    def start(self) -> None:
        """Begin to answer."""
        self._thread.start()

    def server_bind(self) -> None:
        """Bind, without the base's look-up of the host's name, which may take seconds."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = HOST, int(self.server_address[1])

    def process_request(self, request: object, client_address: object) -> None:
        """Handle a connection in a thread of its own."""
        with self._lock:
            self._open.add(cast("socket.socket", request))
        super().process_request(cast("socket.socket", request), client_address)

    def shutdown_request(self, request: object) -> None:
        """Forget a connection that has ended."""
        with self._lock:
            self._open.discard(cast("socket.socket", request))
        super().shutdown_request(cast("socket.socket", request))

    def handle_error(self, request: object, client_address: object) -> None:
        """Ignore the error: a client has disconnected."""

    def close(self) -> None:
        """Stop listening, drop open connections and wait for the threads."""
        self.shutdown()
        self._thread.join()
        with self._lock:
            for connection in self._open:
                with suppress(OSError):  # the client has closed it already
                    connection.shutdown(socket.SHUT_RDWR)
        self.server_close()


class TelemetryHandler(BaseHTTPRequestHandler):
    """Reads the bodies of requests, and answers as backends do."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    max_body = MAX_BODY

    def do_POST(self) -> None:
        """Handle what was sent."""
        self.post()

    def do_GET(self) -> None:
        """Show a page, where a receiver has any."""
        self.get()

    def post(self) -> None:
        """Handle what was sent; a receiver defines it."""
        raise NotImplementedError

    def get(self) -> None:
        """Show a page; a receiver that has any defines it."""
        self.send_error(HTTPStatus.NOT_IMPLEMENTED)

    @property
    def route(self) -> str:
        """The path without what follows a ``?``."""
        return self.path.partition("?")[0]

    def read_body(self) -> bytes:
        """Read the body and undo its compression.

        Raises:
            ValueError: one of those in `wire.REFUSALS`; the connection can't be used again.
        """
        try:
            encoding = self.headers.get("Content-Encoding", "").strip().lower()
            return wire.decompress(self._sent(self.max_body), encoding, self.max_body)
        except ValueError:
            self.close_connection = True
            raise

    def _sent(self, limit: int) -> bytes:
        length = self.headers.get("Content-Length", "")
        if not (length.isascii() and length.isdigit()):
            msg = "a Content-Length is needed"
            raise wire.MalformedError(msg)
        if len(length) > len(str(limit)) or int(length) > limit:
            raise wire.TooLargeError
        body = self.rfile.read(int(length))
        if len(body) < int(length):
            msg = "the body ends early"
            raise wire.MalformedError(msg)
        return body

    def answer(self, status: int, retry_after: int | None = None) -> None:
        """Answer a request that sent telemetry."""
        sentry = bool(ENVELOPE.fullmatch(self.route))
        body = json.dumps({}).encode() if sentry else b""
        headers = {"Content-Type": JSON if sentry else PROTOBUF}
        if retry_after is not None and status != HTTPStatus.OK:
            headers["Retry-After"] = str(retry_after)
        self.write(status, headers, body)

    def write(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        """Write a whole answer."""
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the base's name
        """Write no access log."""
