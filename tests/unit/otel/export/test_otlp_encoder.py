"""Spans in protobuf, as OpenTelemetry's own encoder writes them."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

import pytest
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    StatusCode,
    TraceFlags,
    TraceState,
    set_span_in_context,
)
from packaging.version import Version

from taskobs.otel.export.otlp_encoder import encode
from tests.support.recording import Recorder

ATTRIBUTES: Any = {
    "text": "früh \N{SNOWMAN}",
    "empty": "",
    "on": True,
    "off": False,
    "number": 300,
    "zero": 0,
    "negative": -5,
    "large": 2**63 - 1,
    "real": 0.5,
    "real zero": 0.0,
    "texts": ("a", ""),
    "numbers": (1, 0, -1),
    "none": (),
}

# Before 1.31 the exporter leaves out what a scope has beside its name and version. We never do.
WHOLE_SCOPES = Version(version("opentelemetry-exporter-otlp-proto-common")) >= Version("1.31")


def parent(*, remote: bool) -> SpanContext:
    state = TraceState([("vendor", "value"), ("other", "1")])
    return SpanContext(7, 9, remote, TraceFlags(1), state)


def spans() -> list[ReadableSpan]:
    """Give spans of every kind, with all that a span may have, of two scopes and resources."""
    recorder = Recorder()
    for resource in (Resource({"service.name": "shop", "n": 1}, "http://schema"), Resource({})):
        provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        provider.add_span_processor(recorder)
        for tracer in (
            provider.get_tracer("one", "1.0", "http://scope", {"of": "scope"}),
            provider.get_tracer("two"),
        ):
            for kind in SpanKind:
                above = NonRecordingSpan(parent(remote=kind is SpanKind.CONSUMER))
                tracer.start_span(
                    f"span {kind}",
                    None if kind is SpanKind.INTERNAL else set_span_in_context(above),
                    kind,
                    ATTRIBUTES,
                    [Link(parent(remote=True), {"kind": "retry"}), Link(parent(remote=False))],
                ).end()
            span = tracer.start_span("failed")
            span.add_event("happened", {"size": 1}, 5)
            span.add_event("bare")
            span.set_status(StatusCode.ERROR, "no funds")
            span.end()
            fine = tracer.start_span("fine")
            fine.set_status(StatusCode.OK)
            fine.end()
    return recorder.spans


def add_scopes(request: Any) -> None:
    for resource in request.resource_spans:
        [one] = [found for found in resource.scope_spans if found.scope.name == "one"]
        one.schema_url = "http://scope"
        one.scope.attributes.add(key="of").value.string_value = "scope"


def test_spans_are_encoded_as_the_exporter_does() -> None:
    """A collector gets the same message from either."""
    found = spans()
    assert len(found) == 28
    theirs = encode_spans(found)
    if not WHOLE_SCOPES:
        add_scopes(theirs)
    assert ExportTraceServiceRequest.FromString(encode(found)) == theirs


def test_what_cannot_be_encoded_is_an_error() -> None:
    """A value of a type that only the exporter encodes is left to it."""
    [span, *_] = spans()
    span._attributes = {"bytes": b"x"}  # pyright: ignore[reportPrivateUsage]
    with pytest.raises(TypeError, match="bytes"):
        encode([span])
