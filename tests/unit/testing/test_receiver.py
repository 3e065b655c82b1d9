"""The receiver keeps what it is sent, answers nonsense, and ends when it is closed."""

from __future__ import annotations

import gzip
import http.client
import json
import socket
import threading
import zlib
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.trace import Link, SpanKind

from taskobs.testing.receiver import Receiver

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping

TRACES = "/v1/traces"
ENVELOPE = "/api/1/envelope/"
EVENT_ID = "a" * 32
PATIENCE = 60.0


@pytest.fixture
def receiver() -> Generator[Receiver]:
    with Receiver(max_body=100_000) as opened:
        yield opened


def post(
    receiver: Receiver, path: str, body: bytes, headers: Mapping[str, str] | None = None
) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", receiver.port, timeout=PATIENCE)
    try:
        connection.request("POST", path, body, dict(headers or {}))
        return connection.getresponse().status
    finally:
        connection.close()


def answer_headers(receiver: Receiver, path: str, body: bytes) -> Mapping[str, str]:
    connection = http.client.HTTPConnection("127.0.0.1", receiver.port, timeout=PATIENCE)
    try:
        connection.request("POST", path, body)
        return dict(connection.getresponse().headers)
    finally:
        connection.close()


def one_span(name: str = "run shop.pack") -> bytes:
    request = ExportTraceServiceRequest()
    scope = request.resource_spans.add().scope_spans.add()
    scope.spans.append(Span(trace_id=b"\1" * 16, span_id=b"\2" * 8, name=name))
    return bytes(request.SerializeToString())


def envelope(*items: tuple[Mapping[str, object], bytes]) -> bytes:
    lines = [json.dumps({"event_id": EVENT_ID}).encode()]
    for header, payload in items:
        lines += [json.dumps(header).encode(), payload]
    return b"\n".join(lines)


def test_a_span_of_the_stock_exporter_arrives_whole(receiver: Receiver) -> None:
    """What I set on a span is what the receiver shows."""
    exporter = OTLPSpanExporter(endpoint=receiver.endpoint + TRACES)
    provider = TracerProvider(resource=Resource({"service.name": "shop"}), shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracer = provider.get_tracer("scope")
    with tracer.start_as_current_span("before") as before:
        pass
    link = Link(before.get_span_context(), {"celery.link": "retry_of"})
    with (
        suppress(ValueError),
        tracer.start_as_current_span("run", kind=SpanKind.CONSUMER, links=[link]) as span,
    ):
        span.set_attributes({"text": "a", "number": 2, "list": ["x", "y"]})
        raise ValueError("no")
    provider.shutdown()

    first, second = receiver.spans
    assert (second.name, second.kind, second.scope) == ("run", "consumer", "scope")
    assert second.attributes == {"text": "a", "number": 2, "list": ["x", "y"]}
    assert (second.status, second.message) == ("error", "ValueError: no")
    assert second.events[0].attributes["exception.type"] == "ValueError"
    assert second.links[0].span_id == first.span_id
    assert second.links[0].attributes == {"celery.link": "retry_of"}
    assert second.resource["service.name"] == "shop"
    assert second.end_ns > second.start_ns
    assert second.parent_id == ""


@pytest.mark.parametrize(
    ("encoding", "body"),
    [
        ("", one_span()),
        ("gzip", gzip.compress(one_span())),
        ("deflate", zlib.compress(one_span())),
    ],
    ids=["plain", "gzip", "deflate"],  # gzip notes the time: it must not be part of a name
)
def test_compressed_bodies_are_read(receiver: Receiver, encoding: str, body: bytes) -> None:
    """Any compression that OTLP exporters have is understood."""
    assert post(receiver, TRACES, body, {"Content-Encoding": encoding}) == 200
    assert [span.name for span in receiver.spans] == ["run shop.pack"]


@pytest.mark.parametrize(
    ("path", "body", "headers", "status"),
    [
        (TRACES, b"\xff\xff\xff", {}, 400),
        (TRACES, b"not gzip", {"Content-Encoding": "gzip"}, 400),
        (TRACES, gzip.compress(one_span())[:-9], {"Content-Encoding": "gzip"}, 400),
        (TRACES, b"", {"Content-Encoding": "zstd"}, 415),
        (TRACES, b"", {"Content-Length": "-1"}, 400),
        (TRACES, b"", {"Content-Length": "9" * 5000}, 413),
        (TRACES, b"x" * 100_001, {}, 413),
        (TRACES, gzip.compress(b"x" * 100_001), {"Content-Encoding": "gzip"}, 413),
        (ENVELOPE, b"no json", {}, 400),
        (ENVELOPE, b"[" * 90_000, {}, 400),
        (ENVELOPE, b"[]", {}, 400),
        (ENVELOPE, envelope(({"type": "event", "length": 99}, b"{}")), {}, 400),
        ("/elsewhere", b"", {}, 404),
    ],
    ids=[
        "no protobuf",
        "no gzip",
        "half gzip",
        "unknown encoding",
        "negative length",
        "endless length",
        "too long",
        "too long unpacked",
        "no json",
        "deep json",
        "no object",
        "short item",
        "unknown path",
    ],
)
def test_nonsense_is_refused_and_survived(
    receiver: Receiver, path: str, body: bytes, headers: Mapping[str, str], status: int
) -> None:
    """A broken body gets its status, and the next good one is kept."""
    assert post(receiver, path, body, headers) == status
    assert not receiver.spans
    assert not receiver.events
    assert post(receiver, TRACES, one_span()) == 200
    assert len(receiver.spans) == 1


def test_an_envelope_gives_its_events_and_other_items(receiver: Receiver) -> None:
    """Payloads with and without a length are read, and attachments counted."""
    event = json.dumps({"event_id": EVENT_ID, "tags": {"celery.task": "shop.pack"}}).encode()
    body = envelope(
        ({"type": "event", "length": len(event)}, event),
        ({"type": "attachment", "length": 3}, b"\n\0\n"),
        ({"type": "check_in"}, b'{"status": "ok"}'),
    )
    assert post(receiver, ENVELOPE, body) == 200
    assert [event.event_id for event in receiver.events] == [EVENT_ID]
    assert receiver.events[0].data["tags"] == {"celery.task": "shop.pack"}
    assert [(item.kind, item.data) for item in receiver.items] == [
        ("attachment", {"bytes": 3}),
        ("check_in", {"status": "ok"}),
    ]


def test_a_body_sent_twice_shows(receiver: Receiver) -> None:
    """Duplicates have one digest, and metrics are counted too."""
    for path in (TRACES, TRACES, "/v1/metrics"):
        assert post(receiver, path, one_span(path)) == 200
    digests = [request.digest for request in receiver.requests]
    assert len(digests) == 3
    assert len(set(digests)) == 2


def test_log_records_are_kept_with_their_resource(receiver: Receiver) -> None:
    """What is posted to /v1/logs is there as records; another body is refused."""
    request = ExportLogsServiceRequest()
    resource = request.resource_logs.add()
    resource.resource.attributes.add(key="service.name").value.string_value = "shop"
    scope = resource.scope_logs.add()
    scope.scope.name = "shop.tasks"
    record = scope.log_records.add(severity_number=9, severity_text="INFO", time_unix_nano=7)
    record.body.string_value = "hello"
    record.trace_id = bytes.fromhex("1" * 32)
    assert post(receiver, "/v1/logs", request.SerializeToString()) == 200
    assert post(receiver, "/v1/logs", b"nonsense") == 400
    [found] = receiver.logs
    assert (found.body, found.severity, found.time_ns) == ("hello", 9, 7)
    assert (found.trace_id, found.span_id) == ("1" * 32, "")
    assert (found.resource, found.scope) == ({"service.name": "shop"}, "shop.tasks")


def test_a_status_asked_for_is_answered_and_nothing_kept(receiver: Receiver) -> None:
    """I can play a backend that is down, for some paths only."""
    receiver.behave(TRACES, status=503)
    assert post(receiver, TRACES, one_span()) == 503
    assert post(receiver, "/v1/logs", b"") == 200
    receiver.behave(TRACES)
    assert post(receiver, TRACES, one_span()) == 200
    assert [request.status for request in receiver.requests] == [503, 200, 200]
    assert len(receiver.spans) == 1


def test_a_body_above_a_limit_is_refused_and_nothing_kept(receiver: Receiver) -> None:
    """I can play a backend that takes small bodies only, for some paths."""
    short, long = one_span("pack"), one_span("pack " * 1000)
    receiver.behave(TRACES, limit=len(short))
    assert post(receiver, TRACES, long) == 413
    assert post(receiver, TRACES, short) == 200
    assert post(receiver, "/v1/metrics", long) == 200
    assert [span.name for span in receiver.spans] == ["pack"]


def test_a_busy_backend_says_when_to_come_back(receiver: Receiver) -> None:
    """I can play a backend that answers 429, and says for how long."""
    receiver.behave(TRACES, status=429, retry_after=7)
    assert answer_headers(receiver, TRACES, one_span())["Retry-After"] == "7"
    receiver.behave(TRACES)
    assert "Retry-After" not in answer_headers(receiver, TRACES, one_span())
    assert [request.status for request in receiver.requests] == [429, 200]


def test_waiting_ends_when_the_span_comes(receiver: Receiver) -> None:
    """I need no sleep to wait for telemetry, and learn when it does not come."""
    sender = threading.Timer(0.05, post, (receiver, TRACES, one_span()))
    sender.start()
    assert receiver.wait_for(lambda r: len(r.spans) == 1, PATIENCE)
    assert not receiver.wait_for(lambda r: len(r.spans) == 2, 0.01)
    sender.join()


def test_close_ends_threads_that_hang_or_idle() -> None:
    """An answer that never comes and a connection kept open don't keep it alive."""
    before = set(threading.enumerate())
    receiver = Receiver()
    receiver.behave("/v1/logs", hang=True)
    with (
        socket.create_connection(("127.0.0.1", receiver.port)) as idle,
        socket.create_connection(("127.0.0.1", receiver.port)) as hanging,
    ):
        idle.sendall(b"POST /v1/traces HTTP/1.1\r\nContent-Length: 0\r\n\r\n")
        assert receiver.wait_for(lambda r: len(r.requests) == 1, PATIENCE)
        hanging.sendall(b"POST /v1/logs HTTP/1.1\r\nContent-Length: 0\r\n\r\n")
        receiver.close()
        receiver.close()
        with suppress(ConnectionResetError):  # a busy machine may not even have read it
            assert hanging.recv(100) == b""
    assert set(threading.enumerate()) <= before
