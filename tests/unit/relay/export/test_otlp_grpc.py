"""Spans out of the relay over gRPC."""

# grpc ships no types.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportPrivateUsage=false

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Sequence
from concurrent import futures
from contextlib import closing, contextmanager
from importlib import import_module
from threading import Event, Thread
from types import ModuleType
from typing import Any

import grpc
import pytest
from google.protobuf.any_pb2 import Any as Packed
from google.protobuf.duration_pb2 import Duration
from google.rpc.error_details_pb2 import RetryInfo
from google.rpc.status_pb2 import Status
from opentelemetry.proto.collector.logs.v1 import logs_service_pb2_grpc as log_service
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceResponse
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc as service
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse
from opentelemetry.sdk.trace import ReadableSpan

from taskobs.protocol.log_entries import LogEntry, pack_entry
from taskobs.protocol.otlp import request_message
from taskobs.protocol.otlp.request_message import RequestMessage
from taskobs.relay.counters import DROPPED, EXPORTED, RETRIED, Counters
from taskobs.relay.export.otlp import LogSender, SpanSender, make_exporter_adapter
from taskobs.relay.export.responses import ExportStatus
from taskobs.relay.storage.items import Item
from taskobs.relay.storage.memory import MemoryStore
from tests.live.services import free_port
from tests.support.export import PATIENCE, RESOURCE_BLOB, items, quick, running, spans, wait_out
from tests.support.export import backend as http_backend

CODES = grpc.StatusCode
INFO = "google.rpc.retryinfo-bin"
DETAILS = "grpc-status-details-bin"
REPEATED = "repeated"
"""The reply that repeats the key that came."""


class Backend(service.TraceServiceServicer):
    """Answers each call with the next code, then well."""

    def __init__(self, *replies: Any) -> None:
        self.replies = deque(replies)
        self.calls: list[list[str]] = []
        self.metadata: list[dict[str, str]] = []
        self.port = 0

    def Export(self, request: Any, context: Any) -> Any:  # noqa: N802  # as grpc has it
        scopes = [scope for one in request.resource_spans for scope in one.scope_spans]
        self.calls.append([span.name for scope in scopes for span in scope.spans])
        self.metadata.append(dict(context.invocation_metadata()))
        reply = self.replies.popleft() if self.replies else None
        if reply == REPEATED:
            key = self.metadata[-1]["authorization"]
            context.abort(CODES.UNAUTHENTICATED, f"unknown: {key}, {key.split()[-1]}")
        if isinstance(reply, tuple):
            code, metadata = reply
            context.set_trailing_metadata(metadata)
            context.abort(code, "said so")
        if reply is not None and not isinstance(reply, ExportTraceServiceResponse):
            context.abort(reply, "said so")
        return reply or ExportTraceServiceResponse()


@contextmanager
def backend(*replies: Any, port: int = 0) -> Generator[Backend]:
    """Have a gRPC backend for the length of a block."""
    made = Backend(*replies)
    server = grpc.server(futures.ThreadPoolExecutor(2))
    add: Any = service.add_TraceServiceServicer_to_server
    add(made, server)
    made.port = server.add_insecure_port(f"127.0.0.1:{port}")
    server.start()
    try:
        yield made
    finally:
        server.stop(0).wait()


def sent(port: int, **more: object) -> tuple[MemoryStore, Counters, SpanSender]:
    counters = Counters()
    store = MemoryStore(counters)
    where = {"protocol": "grpc", "endpoint": f"http://127.0.0.1:{port}", **more}
    return store, counters, SpanSender(store, counters, where)


def info(nanos: int) -> RetryInfo:
    return RetryInfo(retry_delay=Duration(nanos=nanos))


def details(nanos: int) -> bytes:
    packed = Packed()
    packed.Pack(info(nanos))
    status = Status(code=8, message="busy", details=[packed])
    return bytes(status.SerializeToString())


def test_spans_arrive_with_the_headers() -> None:
    """I use gRPC, and an argument of mine gives the key."""
    with backend() as there:
        store, counters, spans = sent(there.port, headers={"api-key": "secret"})
        store.append(items("a", "b"))
        with running(spans, store):
            wait_out(store)
        assert there.calls == [["a", "b"]]
        assert there.metadata[0]["api-key"] == "secret"
        assert counters.total(EXPORTED) == 2


@pytest.mark.parametrize("code", [CODES.UNAVAILABLE, CODES.DEADLINE_EXCEEDED, CODES.ABORTED])
def test_a_disturbed_backend_is_asked_again(code: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A collector is restarted: each attempt is ours, none is the exporter's own."""
    failed = quick(monkeypatch)
    with backend(code, code) as there:
        store, counters, spans = sent(there.port)
        store.append(items("a", "b"))
        with running(spans, store):
            wait_out(store)
        assert there.calls == [["a", "b"]] * 3
        assert failed == [0, 1]
        assert counters.total(RETRIED) == 4
        assert counters.total(EXPORTED) == 2


@pytest.mark.parametrize("code", [CODES.UNAUTHENTICATED, CODES.UNIMPLEMENTED, CODES.INTERNAL])
def test_a_backend_that_refuses_is_not_asked_again(code: Any) -> None:
    """The key is wrong: the spans are dropped, and counted with the reason."""
    with backend(code) as there:
        store, counters, spans = sent(there.port)
        store.append(items("a"))
        with running(spans, store):
            wait_out(store)
        assert there.calls == [["a"]]
        assert counters.counts()[DROPPED] == {("span", f"gRPC {code.name}"): 1}


@pytest.mark.parametrize(
    "metadata",
    [
        ((INFO, info(20_000_000).SerializeToString()),),
        ((DETAILS, details(20_000_000)),),
    ],
)
def test_a_busy_backend_says_when_to_come_again(
    metadata: tuple[tuple[str, bytes], ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """RESOURCE_EXHAUSTED with a delay is an order to wait."""
    failed = quick(monkeypatch, 3600.0)
    with backend((CODES.RESOURCE_EXHAUSTED, metadata)) as there:
        store, counters, spans = sent(there.port)
        store.append(items("a"))
        with running(spans, store):
            wait_out(store)
        assert there.calls == [["a"], ["a"]]
        assert counters.total(EXPORTED) == 1
        assert not failed


def test_a_batch_for_which_there_is_no_room_is_sent_in_pieces() -> None:
    """RESOURCE_EXHAUSTED without a delay is what too large a message gets."""
    with backend(CODES.RESOURCE_EXHAUSTED, CODES.RESOURCE_EXHAUSTED) as there:
        store, counters, spans = sent(there.port)
        store.append(items("a", "b"))
        with running(spans, store):
            wait_out(store)
        assert there.calls == [["a", "b"], ["a"], ["b"]]
        assert counters.counts()[DROPPED] == {("span", "gRPC RESOURCE_EXHAUSTED"): 1}


def test_a_partial_success_is_none_for_what_was_rejected() -> None:
    """A backend takes a batch but for one span: it is counted."""
    reply = ExportTraceServiceResponse()
    reply.partial_success.rejected_spans = 1
    with backend(reply) as there:
        store, counters, spans = sent(there.port)
        store.append(items("a", "b"))
        with running(spans, store):
            wait_out(store)
        assert counters.total(EXPORTED) == 1
        assert counters.counts()[DROPPED] == {("span", "rejected by the backend"): 1}


def test_a_backend_that_comes_back_gets_it_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """The collector is replaced by another on the same port: a new connection is made."""
    quick(monkeypatch, 0.1)
    with backend(port=free_port()) as there:
        store, counters, spans = sent(there.port)
        store.append(items("a"))
        spans.start()
        wait_out(store)
    store.append(items("b"))
    while counters.total(RETRIED) < 2:
        store.flush()
    with backend(port=there.port) as again:
        wait_out(store)
        assert again.calls == [["b"]]
    store.close()
    assert spans.join(PATIENCE)
    assert counters.total(DROPPED) == 0


# The wrong port.


def test_a_key_that_a_backend_repeats_is_not_logged() -> None:
    """My backend says which token it refuses: the log has its words, without the token."""
    with backend(REPEATED) as there:
        where = {
            "protocol": "grpc",
            "endpoint": f"http://127.0.0.1:{there.port}",
            "headers": {"authorization": "Bearer s3cret-of-mine"},
        }
        with closing(make_exporter_adapter("TRACES", where)) as adapter:
            result = adapter.send(spans("a"))
    assert result is not None
    assert result.text == "gRPC UNAUTHENTICATED (unknown: ***, ***)"


def test_http_to_the_port_of_grpc_is_named() -> None:
    """I send OTLP over HTTP to port 4317: I read which port and which protocol would do."""
    with backend() as there:
        where = {
            "protocol": "http/protobuf",
            "endpoint": f"http://127.0.0.1:{there.port}/v1/traces",
        }
        with closing(make_exporter_adapter("TRACES", where)) as adapter:
            result = adapter.send(spans("a"))
    assert result is not None
    assert result.status is ExportStatus.RETRY
    assert f"port {there.port} seems to be for gRPC" in result.detail
    assert "usually 4318, or set OTEL_EXPORTER_OTLP_PROTOCOL=grpc" in result.detail


@pytest.mark.parametrize(
    ("scheme", "hint"), [("http", "usually 4317"), ("https", "try http:// instead of https://")]
)
def test_grpc_to_the_port_of_http_is_named(scheme: str, hint: str) -> None:
    """I send OTLP over gRPC to port 4318: I read which port and which protocol would do."""
    with http_backend() as there:
        where = {"protocol": "grpc", "endpoint": f"{scheme}://{there.address}"}
        with closing(make_exporter_adapter("TRACES", where)) as adapter:
            result = adapter.send(spans("a"))
    assert result is not None
    assert result.status is ExportStatus.RETRY
    assert hint in result.detail


def test_an_exporter_that_makes_its_channel_differently_still_sends(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A later release of the exporter: spans arrive, though less is known of what went wrong."""
    monkeypatch.setattr("taskobs.protocol.otlp.request_message._CHANNELS", ("made_otherwise",))
    with backend() as there:
        store, counters, sender = sent(there.port)
        store.append(items("a"))
        with running(sender, store):
            wait_out(store)
        assert there.calls == [["a"]]
        assert counters.total(EXPORTED) == 1


def test_spans_are_encoded_as_over_http(monkeypatch: pytest.MonkeyPatch) -> None:
    """A relay takes half the CPU time over gRPC, too: OpenTelemetry's encoder gets no span."""
    trace_exporter: Any = import_module("opentelemetry.exporter.otlp.proto.grpc.trace_exporter")
    real, encoded = trace_exporter.encode_spans, list[ReadableSpan]()

    def encode(spans: Sequence[ReadableSpan]) -> object:
        encoded.extend(spans)
        return real(spans)

    monkeypatch.setattr(trace_exporter, "encode_spans", encode)
    with backend() as there:
        store, counters, sender = sent(there.port, compression="Gzip")
        store.append(items("a", "b"))
        with running(sender, store):
            wait_out(store)
        assert (there.calls, encoded) == ([["a", "b"]], [])
        assert counters.total(EXPORTED) == 2


class LogBackend(log_service.LogsServiceServicer):
    """Takes log records, and says that it has dropped one of them."""

    def __init__(self) -> None:
        self.bodies: list[str] = []

    def Export(self, request: Any, context: Any) -> Any:  # noqa: N802  # as grpc has it
        del context
        scopes = [scope for one in request.resource_logs for scope in one.scope_logs]
        records = [record for scope in scopes for record in scope.log_records]
        self.bodies += [record.body.string_value for record in records]
        response = ExportLogsServiceResponse()
        response.partial_success.rejected_log_records = 1
        return response


def test_log_records_go_over_grpc_too() -> None:
    """My collector takes gRPC alone: records arrive, and what it has dropped is counted."""
    made, server = LogBackend(), grpc.server(futures.ThreadPoolExecutor(2))
    add: Any = log_service.add_LogsServiceServicer_to_server
    add(made, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        counters = Counters()
        store = MemoryStore(counters)
        where = {"protocol": "grpc", "endpoint": f"http://127.0.0.1:{port}"}
        entries = [LogEntry(1, 2, 9, "INFO", body, "", "", 0, "shop", {}) for body in "ab"]
        store.append([Item("log", pack_entry(entry), RESOURCE_BLOB) for entry in entries])
        with running(LogSender(store, counters, where), store):
            wait_out(store)
    finally:
        server.stop(0).wait()
    assert made.bodies == ["a", "b"]
    assert (counters.total(EXPORTED, "log"), counters.total(DROPPED, "log")) == (1, 1)


def test_a_span_that_cannot_be_encoded_does_not_harm_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A later release's encoder fails for one span: the others go out."""
    monkeypatch.setattr("taskobs.protocol.otlp.request_message._CHANNELS", ("made_otherwise",))
    from opentelemetry.exporter.otlp.proto.common import trace_encoder
    from opentelemetry.exporter.otlp.proto.grpc import trace_exporter

    real = trace_encoder.encode_spans

    def encode(spans: Sequence[ReadableSpan]) -> object:
        if any(span.name == "odd" for span in spans):
            raise ValueError("odd")
        return real(spans)

    monkeypatch.setattr(trace_encoder, "encode_spans", encode)
    monkeypatch.setattr(trace_exporter, "encode_spans", encode)
    with backend() as there:
        store, counters, spans = sent(there.port)
        store.append(items("a", "odd", "b"))
        with running(spans, store):
            wait_out(store)
        assert sorted(name for call in there.calls for name in call) == ["a", "b"]
        assert counters.counts()[DROPPED] == {("span", "cannot be encoded"): 1}


def test_exporters_that_are_made_at_once_have_channels_of_their_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Spans and metrics connect again at the same time: neither gets what is the other's."""
    module = import_module("opentelemetry.exporter.otlp.proto.grpc.exporter")
    plain, entered = module.insecure_channel, Event()

    def import_noted(name: str) -> ModuleType:
        entered.set()
        return import_module(name)

    def second() -> None:
        with request_message.intercepted(RequestMessage()):
            pass

    with request_message.intercepted(RequestMessage()):
        monkeypatch.setattr(request_message, "import_module", import_noted)
        other = Thread(target=second)
        other.start()
        assert entered.wait(60)
    other.join()
    assert module.insecure_channel is plain
