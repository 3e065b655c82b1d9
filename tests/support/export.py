"""A backend that answers as it is told to, and packed telemetry to send to it."""

from __future__ import annotations

import gzip
import ssl
import threading
import time
import zlib
from collections import deque
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, cast

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from taskobs.protocol import frames, span_encoder
from taskobs.relay.counters import Counters
from taskobs.relay.export import responses
from taskobs.relay.export.otlp import SpanSender
from taskobs.relay.export.sender import Sender
from taskobs.relay.storage.base import Store
from taskobs.relay.storage.items import Item
from taskobs.relay.storage.memory import MemoryStore
from taskobs.testing import wire

PATIENCE = 60.0
_PORT = 0
"""Where a backend listens: on any free port, unless a test says otherwise."""
_DECOMPRESS: Mapping[str | None, Callable[[bytes], bytes]] = {
    "gzip": gzip.decompress,
    "deflate": zlib.decompress,
}
RESOURCE_BLOB = frames.pack([{"service.name": "shop", "process.pid": 7}, ""])


@dataclass(frozen=True)
class Reply:
    """How to answer one request; ``hang`` drops the connection at the end, unanswered."""

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict[str, str])
    body: bytes = b""
    delay: float = 0.0
    hang: bool = False


@dataclass(frozen=True)
class Request:
    """A request that came, its body without its compression."""

    path: str
    headers: dict[str, str]
    body: bytes
    at: float

    @property
    def names(self) -> list[str]:
        """The names of the spans in it."""
        return [span.name for span in wire.spans(self.body)]


Respond = Callable[[Request], Reply]


class Backend:
    """Gives each request the next reply, then what ``respond`` returns; keeps the requests."""

    def __init__(
        self,
        *replies: Reply,
        respond: Respond = lambda _: Reply(),
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.scheme = "http" if tls is None else "https"
        self.tls = tls
        self.replies = deque(replies)
        self.respond = respond
        self.requests: list[Request] = []
        self.under_way = self.most_at_once = 0
        self.connections = 0
        self.changed = threading.Condition()
        self.closing = threading.Event()
        self.server = _Server(self)
        self.thread = threading.Thread(
            target=self.server.serve_forever, args=(0.02,), name="backend", daemon=True
        )
        self.thread.start()

    @property
    def endpoint(self) -> str:
        return f"{self.scheme}://{self.address}/v1/traces"

    @property
    def dsn(self) -> str:
        return f"{self.scheme}://key@{self.address}/1"

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.server.server_port}"

    def wait(self, number: int) -> list[Request]:
        """Give the requests once there are so many."""
        with self.changed:
            assert self.changed.wait_for(lambda: len(self.requests) >= number, PATIENCE), (
                f"{len(self.requests)} of {number} requests came"
            )
            return list(self.requests)

    def take(self, request: Request) -> Reply:
        with self.changed:
            self.requests.append(request)
            self.under_way += 1
            self.most_at_once = max(self.most_at_once, self.under_way)
            self.changed.notify_all()
            return self.replies.popleft() if self.replies else self.respond(request)

    def replied(self) -> None:
        with self.changed:
            self.under_way -= 1

    def close(self) -> None:
        self.closing.set()
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        super().__init__(("127.0.0.1", _PORT), _Handler)

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that went away is no news."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def setup(self) -> None:
        backend = cast("_Server", self.server).backend
        backend.connections += 1
        if backend.tls is not None:
            self.request = backend.tls.wrap_socket(self.request, server_side=True)
        super().setup()

    def finish(self) -> None:
        super().finish()
        self.request.close()  # the server closes only what it has accepted, which is below it

    def do_POST(self) -> None:
        backend = cast("_Server", self.server).backend
        body = self.rfile.read(int(self.headers["Content-Length"]))
        body = _DECOMPRESS.get(self.headers.get("Content-Encoding"), bytes)(body)
        reply = backend.take(Request(self.path, dict(self.headers), body, time.monotonic()))
        backend.closing.wait(None if reply.hang else reply.delay)
        backend.replied()
        if reply.hang:
            self.close_connection = True
            return
        self.send_response(reply.status)
        for name, value in reply.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(reply.body)))
        self.end_headers()
        self.wfile.write(reply.body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the base's name
        """Write no access log."""


@contextmanager
def backend(
    *replies: Reply, respond: Respond = lambda _: Reply(), tls: ssl.SSLContext | None = None
) -> Generator[Backend]:
    """Have a backend for the length of a block."""
    made = Backend(*replies, respond=respond, tls=tls)
    try:
        yield made
    finally:
        made.close()


@contextmanager
def running(sender: Sender, store: Store) -> Generator[Sender]:
    """Have a sender's thread run for the length of a block."""
    sender.start()
    try:
        yield sender
    finally:
        store.close()
        assert sender.join(PATIENCE)


def exporter(backend: Backend, **more: object) -> dict[str, Any]:
    """Give the exporter's configuration for spans over HTTP."""
    return {"protocol": "http/protobuf", "endpoint": backend.endpoint, "headers": None, **more}


def until(condition: Callable[[], bool]) -> None:
    """Look until it is true; fail after a while."""
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, "it did not come true"
        time.sleep(0.01)


def wait_out(store: Store) -> None:
    """Wait until the store is empty."""
    end = time.monotonic() + PATIENCE
    mark = store.flush()
    while not store.is_flushed(mark):
        assert time.monotonic() < end, store.pending("span")
        time.sleep(0.01)


def quick(monkeypatch: pytest.MonkeyPatch, wait: float = 0.01) -> list[int]:
    """Have attempts follow each other after ``wait`` seconds; give the numbers of the failed."""
    failed: list[int] = []

    def backoff(attempt: int) -> float:
        failed.append(attempt)
        return wait

    monkeypatch.setattr(responses, "backoff", backoff)
    return failed


def spans(*names: str) -> Sequence[ReadableSpan]:
    """Make spans that have ended."""
    kept = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(kept))
    for name in names:
        provider.get_tracer("shop").start_span(name, attributes={"n": 1}).end()
    return kept.get_finished_spans()


def items(*names: str) -> list[Item]:
    """Make packed spans; the source of each is its name."""
    packed = [span_encoder.split(span_encoder.pack_end(span))[1] for span in spans(*names)]
    return [Item("span", one, RESOURCE_BLOB, name) for one, name in zip(packed, names, strict=True)]


def sent(sender_of: Backend, store: Store | None = None) -> tuple[Store, Counters, SpanSender]:
    """Make a sender of spans, which is not started."""
    counters = Counters()
    store = store or MemoryStore(counters)
    return store, counters, SpanSender(store, counters, exporter(sender_of))
