"""A backend for tests and the demo: receives OTLP over HTTP and Sentry's envelopes on loopback."""

from __future__ import annotations

import hashlib
import threading
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, cast

from taskobs.testing import wire
from taskobs.testing.http_server import (
    HOST,
    MAX_BODY,
    LoopbackServer,
    TelemetryHandler,
    decoded,
    is_telemetry,
)
from taskobs.testing.wire import ReceivedEvent, ReceivedItem, ReceivedLog, ReceivedSpan

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from types import TracebackType

    from typing_extensions import Self


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

    def __init__(self, *, port: int = 0, max_body: int = MAX_BODY, host: str = HOST) -> None:
        """Start on a port of ``host``, 0 for any; ``max_body`` is in bytes, uncompressed."""
        self.host, self.max_body = host, max_body
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
        self._server.start()

    @property
    def port(self) -> int:
        """The port that it listens on."""
        return self._server.server_port

    @property
    def endpoint(self) -> str:
        """The value for ``OTEL_EXPORTER_OTLP_ENDPOINT`` (http/protobuf)."""
        return f"http://{self.host}:{self.port}"

    @property
    def dsn(self) -> str:
        """The value for ``SENTRY_DSN``."""
        return f"http://demo@{self.host}:{self.port}/1"

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
        received = decoded(path, body)
        with self._changed:
            self._spans.extend(one for one in received if isinstance(one, ReceivedSpan))
            self._logs.extend(one for one in received if isinstance(one, ReceivedLog))
            self._events.extend(one for one in received if isinstance(one, ReceivedEvent))
            self._items.extend(one for one in received if isinstance(one, ReceivedItem))

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
        self._server.close()

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


class _Server(LoopbackServer):
    def __init__(self, receiver: Receiver, port: int) -> None:
        self.receiver = receiver
        super().__init__(port, _Handler, host=receiver.host)


class _Handler(TelemetryHandler):
    def post(self) -> None:
        receiver = cast("_Server", self.server).receiver
        self.max_body = receiver.max_body
        with receiver.answering():
            self._post(receiver)

    def _post(self, receiver: Receiver) -> None:
        try:
            body = self.read_body()
        except ValueError as error:
            refusal = wire.REFUSALS[type(error)]
            receiver.note(self.path, b"", refusal)
            self.answer(refusal)
            return
        manner = receiver.manner(self.route)
        receiver.closing.wait(None if manner.hang else manner.delay)
        if receiver.closing.is_set():
            self.close_connection = True
            return
        status = int(manner.status)
        if manner.limit is not None and len(body) > manner.limit:
            status = HTTPStatus.REQUEST_ENTITY_TOO_LARGE
        elif status == HTTPStatus.OK:
            status = self._keep(receiver, body)
        receiver.note(self.route, body, status)
        self.answer(status, manner.retry_after)

    def _keep(self, receiver: Receiver, body: bytes) -> int:
        if not is_telemetry(self.route):
            return HTTPStatus.NOT_FOUND
        try:
            receiver.take(self.route, body)
        except wire.MalformedError:
            return HTTPStatus.BAD_REQUEST
        return HTTPStatus.OK
