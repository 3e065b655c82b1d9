"""What a collector gets over gRPC of a process without a relay: the same as over HTTP."""

# grpc ships no types.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

from __future__ import annotations

import logging
from collections.abc import Generator, Sequence
from concurrent import futures
from contextlib import contextmanager
from importlib import import_module
from threading import Thread
from typing import Any

import grpc
import pytest
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc as service
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import StatusCode

from taskobs.config.settings import resolve
from taskobs.otel.direct import PerProcessProcessor
from taskobs.otel.export.exporter import ExporterFactory
from taskobs.otel.fast_provider import FastSpanProvider
from taskobs.otel.fast_spans import FastSpan
from taskobs.otel.fast_tracer import FastSpanTracer
from taskobs.protocol.otlp.request_message import RequestMessage, intercepted
from tests.support.counted_ids import Counted

EXPORTER = "opentelemetry.exporter.otlp.proto.grpc.exporter"
CHANNELS = "taskobs.protocol.otlp.request_message._CHANNELS"

pytestmark = pytest.mark.skipif(
    type(FastSpanProvider(shutdown_on_exit=False).get_tracer("")) is not FastSpanTracer,
    reason="this release of the SDK makes its spans in another way",
)


class Collector(service.TraceServiceServicer):
    """Keeps requests, and the metadata of each; refuses as many first as it is told."""

    def __init__(self, refused: int = 0) -> None:
        self.requests: list[Any] = []
        self.metadata: list[dict[str, str]] = []
        self.port = 0
        self._refused = refused

    def Export(self, request: Any, context: Any) -> Any:  # noqa: N802  # as grpc has it
        self.requests.append(request)
        self.metadata.append(dict(context.invocation_metadata()))
        if len(self.requests) <= self._refused:
            context.abort(grpc.StatusCode.UNAUTHENTICATED, "who are you?")
        return ExportTraceServiceResponse()

    @property
    def names(self) -> list[list[str]]:
        """The names of the spans of each request."""
        return [
            [span.name for of in one.resource_spans for to in of.scope_spans for span in to.spans]
            for one in self.requests
        ]


@contextmanager
def collector(refused: int = 0) -> Generator[Collector]:
    """Have a collector for the length of a block."""
    made, server = Collector(refused), grpc.server(futures.ThreadPoolExecutor(2))
    add: Any = service.add_TraceServiceServicer_to_server
    add(made, server)
    made.port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield made
    finally:
        server.stop(0).wait()


def provider(kind: type[TracerProvider]) -> Any:
    return kind(
        resource=Resource({"service.name": "shop"}, "http://schema"),
        id_generator=Counted(),
        shutdown_on_exit=False,
    )


def ours(there: Collector, **options: object) -> Any:
    endpoint = f"http://127.0.0.1:{there.port}"
    settings = resolve({"otlp_endpoint": endpoint, "otlp_protocol": "grpc", **options}, {})
    made = provider(FastSpanProvider)
    spans = PerProcessProcessor(ExporterFactory(settings).make_processor)
    made.add_span_processor(spans)
    made.route_to(spans)
    return made


def theirs(there: Collector) -> Any:
    made = provider(TracerProvider)
    exporter = OTLPSpanExporter(endpoint=f"http://127.0.0.1:{there.port}")
    made.add_span_processor(BatchSpanProcessor(exporter))
    return made


def use(made: TracerProvider) -> type:
    """Do what an app does; gives the class of its spans."""
    tracer = made.get_tracer("shop", "1.2")
    with tracer.start_as_current_span("outer", attributes={"n": 1, "texts": ["a", "b"]}):
        inner = tracer.start_span("inner")
        inner.add_event("packed", {"of": 3}, timestamp=5)
        inner.set_status(StatusCode.ERROR, "no funds")
        inner.end()
    made.shutdown()
    return type(inner)


def timeless(request: Any) -> Any:
    """Take out what a clock said."""
    for resource in request.resource_spans:
        for scope in resource.scope_spans:
            for span in scope.spans:
                assert 0 < span.start_time_unix_nano <= span.end_time_unix_nano
                span.start_time_unix_nano = span.end_time_unix_nano = 0
    return request


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Name the spans that OpenTelemetry's encoder got."""
    trace_exporter: Any = import_module(OTLPSpanExporter.__module__)
    real, names = trace_exporter.encode_spans, list[str]()

    def encode(spans: Sequence[ReadableSpan]) -> object:
        names.extend(span.name for span in spans)
        return real(spans)

    monkeypatch.setattr(trace_exporter, "encode_spans", encode)
    return names


def test_a_collector_gets_the_same_as_from_opentelemetry(encoded: list[str]) -> None:
    """My web process sends over gRPC: its spans are as they were, at a part of the cost."""
    with collector() as there:
        use(theirs(there))
        del encoded[:]
        assert use(ours(there, otlp_headers={"api-key": "mine"})) is FastSpan
        expected, found = map(timeless, there.requests)
        assert found == expected
        assert there.metadata[1]["api-key"] == "mine"
        assert not encoded


def test_a_refusal_is_one_line_with_the_number(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """My key is wrong: the log says so once, and how many spans that cost."""
    # Another test's relay has quietened it, or it has logged the same for another test just now.
    caplog.set_level(logging.WARNING, EXPORTER)
    monkeypatch.setattr(logging.getLogger(EXPORTER), "filters", [])
    with collector(refused=1) as there:
        use(ours(there))
        assert there.names == [["inner", "outer"]]
    lines = [one.getMessage() for one in caplog.records if one.name == "taskobs"]
    assert "UNAUTHENTICATED" in lines[0]
    assert "2 lost" in lines[-1]


def test_an_exporter_that_makes_its_channel_differently_gets_the_spans(
    encoded: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A later release of the exporter: spans arrive by its own encoder."""
    monkeypatch.setattr(CHANNELS, ("made_otherwise",))
    with collector() as there:
        use(ours(there))
        assert there.names == [["inner", "outer"]]
        assert encoded == ["inner", "outer"]


def test_an_exporter_of_another_thread_keeps_its_channel() -> None:
    """My app makes an exporter of its own at the same moment: it sends what my app gives it."""
    made: list[Any] = []

    def of_app() -> None:
        made.append(import_module(EXPORTER).insecure_channel("127.0.0.1:9"))

    with intercepted(RequestMessage()) as channels:
        thread = Thread(target=of_app)
        thread.start()
        thread.join()
        mine = import_module(EXPORTER).insecure_channel("127.0.0.1:9")
    plain = grpc.insecure_channel("127.0.0.1:9")
    assert channels.number == 1
    assert type(made[0]) is type(plain) is not type(mine)
    for channel in (plain, made[0], mine):
        channel.close()
