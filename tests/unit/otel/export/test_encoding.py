"""What a collector gets of a process without a relay: the same as from OpenTelemetry's pipeline."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import suppress
from importlib.metadata import version
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanLimits, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    TraceState,
)
from packaging.version import Version

from taskobs.config.settings import resolve
from taskobs.otel.direct import PerProcessProcessor
from taskobs.otel.export.encoding import EncodingExporter
from taskobs.otel.export.exporter import ExporterFactory
from taskobs.otel.export.span_requests import SpanRequests
from taskobs.otel.fast_provider import FastSpanProvider
from taskobs.otel.fast_spans import FastSpan
from taskobs.otel.fast_tracer import FastSpanTracer
from taskobs.protocol.otlp.request_body import RequestBody
from tests.support.counted_ids import Counted
from tests.support.export import Backend, backend

RESOURCE = Resource({"service.name": "shop", "n": 1, "list": ["a", "b"]}, "http://schema")
REMOTE = SpanContext(7, 9, is_remote=True, trace_flags=TraceFlags(1))
STATE = SpanContext(
    7, 9, is_remote=False, trace_flags=TraceFlags(1), trace_state=TraceState([("v", "x")])
)
VALUES: Any = {
    "text": "früh \N{SNOWMAN}",
    "empty": "",
    "on": True,
    "off": False,
    "number": -(2**63),
    "large": 2**63 - 1,
    "real": 0.5,
    "zero": 0,
    "bytes": b"abc",
    "texts": ["a", ""],
    "numbers": (1, 0, -1),
    "none": (),
    "long": "x" * 50_000,
    "": "no key",
    "mixed": [1, "a"],
    "object": object,
}
Act = Callable[[trace.Tracer], object]
Span = trace.Span

# Before 1.31 the exporter leaves out what a scope has beside its name and version. We never do.
WHOLE_SCOPES = Version(version("opentelemetry-exporter-otlp-proto-common")) >= Version("1.31")


pytestmark = pytest.mark.skipif(
    type(FastSpanProvider(shutdown_on_exit=False).get_tracer("")) is not FastSpanTracer,
    reason="this release of the SDK makes its spans in another way",
)


def below(parent: SpanContext) -> Any:
    return trace.set_span_in_context(NonRecordingSpan(parent))


def plain(tracer: trace.Tracer) -> None:
    tracer.start_span("plain").end()


def values(tracer: trace.Tracer) -> None:
    tracer.start_span("given", attributes=VALUES).end()
    span = tracer.start_span("set")
    for key, value in VALUES.items():
        span.set_attribute(key, value)
    span.set_attributes(VALUES)
    span.update_name("renamed")
    span.end()


def kinds(tracer: trace.Tracer) -> None:
    for kind in SpanKind:
        tracer.start_span(f"{kind}", kind=kind).end()


def parents(tracer: trace.Tracer) -> None:
    tracer.start_span("remote", below(REMOTE)).end()
    tracer.start_span("with a state", below(STATE)).end()
    with tracer.start_as_current_span("outer"), tracer.start_as_current_span("middle"):
        tracer.start_span("inner").end()


def links(tracer: trace.Tracer) -> None:
    found = [Link(REMOTE, VALUES), Link(STATE)]
    tracer.start_span("linked", links=found).end()


def events(tracer: trace.Tracer) -> None:
    span = tracer.start_span("events")
    span.add_event("bare", timestamp=5)
    span.add_event("given", VALUES, 6)
    span.end()


def failures(tracer: trace.Tracer) -> None:
    for status in (Status(StatusCode.ERROR, "no funds"), Status(StatusCode.OK)):
        span = tracer.start_span("status")
        span.set_status(status)
        span.end()
    with suppress(ValueError), tracer.start_as_current_span("raises"):
        raise ValueError("as asked")


def full(tracer: trace.Tracer) -> None:
    span = tracer.start_span("full", links=[Link(REMOTE, VALUES)] * 4)
    for number in range(10):
        span.set_attribute(f"a{number}", "x" * 100)
        span.add_event(f"e{number}", {"a": 1, "b": 2, "c": 3})
    span.end()


def read(tracer: trace.Tracer) -> None:
    """Look at what makes the SDK's fields, before and after the end."""
    span: Any = tracer.start_span("read", attributes={"a": 1})
    assert span.attributes == {"a": 1}
    span.set_attribute("b", 2)
    span.end()
    assert span.status.status_code is StatusCode.UNSET


ACTS: list[Act] = [plain, values, kinds, parents, links, events, failures, full, read]
LOW = SpanLimits(
    max_attributes=3,
    max_events=2,
    max_links=1,
    max_event_attributes=2,
    max_link_attributes=2,
    max_attribute_length=20,
)


def provider(kind: type[TracerProvider], limits: SpanLimits) -> Any:
    return kind(
        resource=RESOURCE, id_generator=Counted(), span_limits=limits, shutdown_on_exit=False
    )


def theirs(there: Backend, act: Act, limits: SpanLimits) -> Any:
    made = provider(TracerProvider, limits)
    made.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=there.endpoint)))
    return sent(made, there, act)


def ours(there: Backend, act: Act, limits: SpanLimits) -> Any:
    settings = resolve({"otlp_endpoint": there.endpoint.removesuffix("/v1/traces")}, {})
    made = provider(FastSpanProvider, limits)
    spans = PerProcessProcessor(ExporterFactory(settings).make_processor)
    made.add_span_processor(spans)
    made.route_to(spans)
    return sent(made, there, act)


def sent(made: TracerProvider, there: Backend, act: Act) -> Any:
    """Give what came of the spans, without what a clock said, or what names a line of code."""
    act(made.get_tracer("shop", "1.2", "http://scope", {"of": "scope"}))
    act(made.get_tracer("bare"))
    made.shutdown()
    request = ExportTraceServiceRequest.FromString(there.requests[-1].body)
    for resource in request.resource_spans:
        for scope in resource.scope_spans:
            if scope.scope.name == "shop" and not scope.schema_url and not WHOLE_SCOPES:
                scope.schema_url = "http://scope"
                scope.scope.attributes.add(key="of").value.string_value = "scope"
            for span in scope.spans:
                assert 0 < span.start_time_unix_nano <= span.end_time_unix_nano
                span.start_time_unix_nano = span.end_time_unix_nano = 0
                for event in span.events:
                    event.time_unix_nano = min(event.time_unix_nano, 10)
                    for one in event.attributes:
                        if one.key == "exception.stacktrace":
                            one.value.string_value = ""
    return request


@pytest.mark.parametrize("limits", [SpanLimits(), LOW], ids=["usual", "low"])
@pytest.mark.parametrize("act", ACTS, ids=lambda act: act.__name__)
def test_a_collector_gets_the_same_as_from_opentelemetry(act: Act, limits: SpanLimits) -> None:
    """My spans look as they did, whatever is in them and however they are limited."""
    with backend() as there:
        expected = theirs(there, act, limits)
        assert ours(there, act, limits) == expected


@pytest.mark.parametrize("compression", ["gzip", "deflate"])
def test_the_exporters_compression_is_used(
    compression: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", compression)
    with backend() as there:
        ours(there, plain, SpanLimits())
        [request] = there.requests
        assert request.headers["Content-Encoding"] == compression
        assert request.names == ["plain"] * 2


STRANGE: Any = {"half a pair": "\ud800", "wide": 2**70, "inside": (2**63, -(2**63) - 1)}


def test_values_that_otlp_has_no_place_for_lose_no_span(caplog: pytest.LogCaptureFixture) -> None:
    """A task sets half of a surrogate pair: OpenTelemetry's encoder would lose the whole batch."""
    with backend() as there:

        def strange(tracer: trace.Tracer) -> None:
            tracer.start_span("before").end()
            span = tracer.start_span("strange", attributes=STRANGE)
            span.set_status(StatusCode.ERROR, "\ud800")
            span.end()
            tracer.start_span("after", links=[Link(REMOTE, STRANGE)]).end()

        with caplog.at_level(logging.WARNING):
            request = ours(there, strange, SpanLimits())
        assert not caplog.records
    [scope, _] = request.resource_spans[0].scope_spans
    assert [span.name for span in scope.spans] == ["before", "strange", "after"]
    found = {one.key: one.value for one in scope.spans[1].attributes}
    assert found["half a pair"].string_value == "?"
    assert found["wide"].string_value == str(2**70)
    inside = [one.string_value for one in found["inside"].array_value.values]
    assert inside == [str(2**63), str(-(2**63) - 1)]


# An exporter of a later release.


def made_span() -> FastSpan:
    made = provider(FastSpanProvider, SpanLimits())
    made.add_span_processor(PerProcessProcessor(object))  # type: ignore[arg-type]
    kept: list[Any] = []

    class Sink:
        def fast_span_started(self, span: Any) -> None: ...

        def fast_span_ended(self, span: Any, *, again: bool = False) -> None:
            del again
            kept.append(span)

    made.route_to(Sink())
    plain(made.get_tracer("shop"))
    [span] = kept
    assert type(span) is FastSpan
    return span


def test_an_exporter_that_sends_nothing_without_spans_gets_them() -> None:
    """A later release skips an export without spans: all spans arrive by its own encoder."""
    import requests
    from opentelemetry.sdk.trace.export import SpanExportResult

    class Later(OTLPSpanExporter):
        def export(self, spans: Any) -> SpanExportResult:
            return super().export(spans) if spans else SpanExportResult.SUCCESS

    with backend() as there, requests.Session() as session:
        body = RequestBody(session)
        exporter = EncodingExporter(Later(endpoint=there.endpoint, session=session), body)
        for _ in range(2):
            assert exporter.export([made_span()]) is SpanExportResult.SUCCESS
        exporter.shutdown()
        assert [request.names for request in there.requests] == [["plain"]] * 2


def test_a_request_that_is_very_large_is_left_to_the_exporter(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A release of the exporter has a limit of its own, and says so."""
    from taskobs.otel.export import encoding

    encoded: list[int] = []
    encode = SpanRequests.encode

    def noted(self: SpanRequests, spans: Any) -> bytes:
        found = encode(self, spans)
        encoded.append(len(found))
        return found

    monkeypatch.setattr(encoding, "_LARGE", 10)
    monkeypatch.setattr(SpanRequests, "encode", noted)
    with backend() as there:
        request = ours(there, kinds, SpanLimits())
        assert len(request.resource_spans[0].scope_spans) == 2
    assert encoded
