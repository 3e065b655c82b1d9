"""A backend for tests and the demo: receives OTLP over HTTP and Sentry's envelopes on loopback."""

from __future__ import annotations

import hashlib
import json
import re
import socket
import threading
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, cast

from taskobs.testing import wire
from taskobs.testing.wire import ReceivedEvent, ReceivedItem, ReceivedLog, ReceivedSpan

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from types import TracebackType

    from typing_extensions import Self

MAX_BODY = 16 * 1024 * 1024
TRACES = "/v1/traces"
LOGS = "/v1/logs"
COUNTED = frozenset({"/v1/metrics", LOGS})
ENVELOPE = re.compile(r"/api/[^/]+/envelope/?")
PROTOBUF = "application/x-protobuf"
JSON = "application/json"


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceivedRequest:
    """One request whose body arrived whole: two with one digest are a body sent twice."""

    path: str
    digest: str
    """SHA-256 of the body without its compression."""
    size: int
    status: int
    body: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Manner:
    """How to answer: after ``delay`` seconds, with ``status``, or never (``hang``)."""

    delay: float = 0.0
    status: int = HTTPStatus.OK
    hang: bool = False
    limit: int | None = None
    """Bytes of the longest body, uncompressed; a longer one is answered with 413."""
    retry_after: int | None = None
    """Seconds in the ``Retry-After`` header of a response whose status is not 200."""


class Receiver:
    """Listens from its construction until `close`, or the end of a ``with``. Thread-safe.

    What it receives is kept in memory. A request whose response has another status than 200 is
    listed in `requests`, and its contents are not kept.
    """

    def __init__(self, *, port: int = 0, max_body: int = MAX_BODY) -> None:
        """Start on a port of the loopback, 0 for any; ``max_body`` is in bytes, uncompressed."""
        self.max_body = max_body
        self.closing = threading.Event()
        self._changed = threading.Condition()
        self.busy = 0
        """Requests that have arrived and have no response yet."""
        self._manners: dict[str, Manner] = {}
        self._spans: list[ReceivedSpan] = []
        self._logs: list[ReceivedLog] = []
        self._events: list[ReceivedEvent] = []
        self._items: list[ReceivedItem] = []
        self._requests: list[ReceivedRequest] = []
        self._server = _Server(self, port)
        self._thread = threading.Thread(
            target=self._server.serve_forever,
            kwargs={"poll_interval": 0.05},
            name="taskobs-receiver",
            daemon=True,
        )
        self._thread.start()

    @property
    def port(self) -> int:
        """The port that it listens on."""
        return self._server.server_port

    @property
    def endpoint(self) -> str:
        """The value for ``OTEL_EXPORTER_OTLP_ENDPOINT`` (http/protobuf)."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def dsn(self) -> str:
        """The value for ``SENTRY_DSN``."""
        return f"http://demo@127.0.0.1:{self.port}/1"

    @property
    def spans(self) -> tuple[ReceivedSpan, ...]:
        """All spans so far, in the order in which they arrived."""
        with self._changed:
            return tuple(self._spans)

    @property
    def logs(self) -> tuple[ReceivedLog, ...]:
        """All log records so far, in the order in which they arrived."""
        with self._changed:
            return tuple(self._logs)

    @property
    def events(self) -> tuple[ReceivedEvent, ...]:
        """All Sentry error events so far."""
        with self._changed:
            return tuple(self._events)

    @property
    def items(self) -> tuple[ReceivedItem, ...]:
        """All other items of Sentry envelopes so far."""
        with self._changed:
            return tuple(self._items)

    @property
    def requests(self) -> tuple[ReceivedRequest, ...]:
        """All requests so far, refused ones too."""
        with self._changed:
            return tuple(self._requests)

    def behave(  # noqa: PLR0913  # each is a manner by itself
        self,
        prefix: str = "/",
        *,
        delay: float = 0.0,
        status: int = HTTPStatus.OK,
        hang: bool = False,
        limit: int | None = None,
        retry_after: int | None = None,
    ) -> None:
        """From now on answer requests below ``prefix`` in this manner; the longest prefix wins."""
        with self._changed:
            self._manners[prefix] = Manner(
                delay=delay, status=status, hang=hang, limit=limit, retry_after=retry_after
            )

    @contextmanager
    def answering(self) -> Generator[None]:
        """Count a request as busy from its arrival until its answer has been written."""
        with self._changed:
            self.busy += 1
        try:
            yield
        finally:
            with self._changed:
                self.busy -= 1
                self._changed.notify_all()

    def manner(self, path: str) -> Manner:
        """How to answer a request for ``path``."""
        with self._changed:
            prefixes = [prefix for prefix in self._manners if path.startswith(prefix)]
            return self._manners[max(prefixes, key=len)] if prefixes else Manner()

    def wait_for(self, predicate: Callable[[Receiver], bool], timeout: float) -> bool:
        """Wait until ``predicate(self)`` is true, at most ``timeout`` seconds; say whether it is.

        The predicate is called after each request, with the receiver's lock held: keep it quick.
        """
        with self._changed:
            return self._changed.wait_for(lambda: predicate(self), timeout)

    def clear(self) -> None:
        """Forget all that has arrived so far."""
        with self._changed:
            for kept in (self._spans, self._logs, self._events, self._items, self._requests):
                kept.clear()

    def take(self, path: str, body: bytes) -> None:
        """Keep the contents of an accepted body; raises `wire.MalformedError`."""
        if path == TRACES:
            spans = wire.spans(body)
            with self._changed:
                self._spans.extend(spans)
        elif path == LOGS:
            logs = wire.logs(body)
            with self._changed:
                self._logs.extend(logs)
        elif ENVELOPE.fullmatch(path):
            received = wire.envelope(body)
            with self._changed:
                self._events.extend(r for r in received if isinstance(r, ReceivedEvent))
                self._items.extend(r for r in received if isinstance(r, ReceivedItem))

    def note(self, path: str, body: bytes, status: int) -> None:
        """List a request, and wake the threads in `wait_for`."""
        request = ReceivedRequest(
            path=path,
            digest=hashlib.sha256(body).hexdigest(),
            size=len(body),
            status=status,
            body=body,
        )
        with self._changed:
            self._requests.append(request)
            self._changed.notify_all()

    def close(self) -> None:
        """Stop listening, drop open connections and wait for the threads; twice is once."""
        if self.closing.is_set():
            return
        self.closing.set()
        self._server.shutdown()
        self._thread.join()
        self._server.hang_up()
        self._server.server_close()

    def __enter__(self) -> Self:
        """Return the receiver, which listens already."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close it."""
        self.close()

    def __repr__(self) -> str:
        """Return counts of what has arrived, for the message of a failed assertion."""
        kept = f"{len(self.spans)} spans, {len(self.events)} events, {len(self.requests)} requests"
        return f"<Receiver {self.endpoint}: {kept}>"


class _Server(ThreadingHTTPServer):
    """Keeps track of its open connections, so that ``hang_up`` can end the threads of idle ones."""

    daemon_threads = False
    block_on_close = True
    request_queue_size = 128

    def __init__(self, receiver: Receiver, port: int) -> None:
        self.receiver = receiver
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        super().__init__(("127.0.0.1", port), _Handler)

    def process_request(self, request: object, client_address: object) -> None:
        with self._lock:
            self._open.add(cast("socket.socket", request))
        super().process_request(cast("socket.socket", request), client_address)

    def shutdown_request(self, request: object) -> None:
        with self._lock:
            self._open.discard(cast("socket.socket", request))
        super().shutdown_request(cast("socket.socket", request))

    def handle_error(self, request: object, client_address: object) -> None:
        """Ignore the error: a client has disconnected."""

    def hang_up(self) -> None:
        with self._lock:
            for connection in self._open:
                with suppress(OSError):  # the client has closed it already
                    connection.shutdown(socket.SHUT_RDWR)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_POST(self) -> None:
        receiver = cast("_Server", self.server).receiver
        with receiver.answering():
            self._post(receiver)

    def _post(self, receiver: Receiver) -> None:
        path = self.path.partition("?")[0]
        try:
            body = wire.decompress(
                self._body(receiver.max_body), self._encoding(), receiver.max_body
            )
        except ValueError as error:
            self._refuse(error)
            return
        manner = receiver.manner(path)
        receiver.closing.wait(None if manner.hang else manner.delay)
        if receiver.closing.is_set():
            self.close_connection = True
            return
        status = manner.status
        if manner.limit is not None and len(body) > manner.limit:
            status = HTTPStatus.REQUEST_ENTITY_TOO_LARGE
        elif status == HTTPStatus.OK:
            status = self._keep(path, body)
        receiver.note(path, body, status)
        self._answer(status, path, manner.retry_after)

    def _encoding(self) -> str:
        return self.headers.get("Content-Encoding", "").strip().lower()

    def _body(self, limit: int) -> bytes:
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

    def _keep(self, path: str, body: bytes) -> int:
        if path not in COUNTED and path != TRACES and not ENVELOPE.fullmatch(path):
            return HTTPStatus.NOT_FOUND
        try:
            cast("_Server", self.server).receiver.take(path, body)
        except wire.MalformedError:
            return HTTPStatus.BAD_REQUEST
        return HTTPStatus.OK

    def _refuse(self, error: ValueError) -> None:
        """Refuse a body that was not read to its end: the connection can't be used again."""
        self.close_connection = True
        status = wire.REFUSALS[type(error)]
        cast("_Server", self.server).receiver.note(self.path, b"", status)
        self._answer(status, self.path)

    def _answer(self, status: int, path: str, retry_after: int | None = None) -> None:
        sentry = bool(ENVELOPE.fullmatch(path))
        body = json.dumps({}).encode() if sentry else b""
        self.send_response(status)
        self.send_header("Content-Type", JSON if sentry else PROTOBUF)
        self.send_header("Content-Length", str(len(body)))
        if retry_after is not None and status != HTTPStatus.OK:
            self.send_header("Retry-After", str(retry_after))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the base's name
        """Write no access log."""
