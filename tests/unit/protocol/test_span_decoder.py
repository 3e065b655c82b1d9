"""A span that went over the relay's socket is the span that it was."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanLimits, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    TraceState,
    set_span_in_context,
)

from taskobs.protocol import frames, span_encoder
from taskobs.protocol.frames import FrameError
from taskobs.protocol.held_spans.marks import row_of
from taskobs.protocol.otlp.packed_spans import SpanMessages
from taskobs.protocol.span_decoder import SpanDecoder
from taskobs.protocol.validation import MalformedError

RESOURCE = Resource({"service.name": "shop", "process.pid": 7, "tags": ("a", "b")}, "http://schema")
RESOURCE_BLOB = frames.pack(
    [{"service.name": "shop", "process.pid": 7, "tags": ["a", "b"]}, "http://schema"]
)
REMOTE = SpanContext(
    0xA1, 0xB2, is_remote=True, trace_flags=TraceFlags(1), trace_state=TraceState([("v", "1")])
)


@pytest.fixture
def ended() -> list[ReadableSpan]:
    """Real spans, from a real provider: plain, full, failed, and one that dropped things."""
    exporter = InMemorySpanExporter()
    limits = SpanLimits(max_attributes=2, max_events=1, max_links=1, max_event_attributes=1)
    for given in (None, limits):
        provider = TracerProvider(resource=RESOURCE, span_limits=given, shutdown_on_exit=False)
        provider.add_span_processor(SimpleSpanProcessor(exporter))
        tracer = provider.get_tracer("shop", "1.2", "http://scope", {"team": "red"})
        provider.get_tracer("bare").start_span("plain").end()
        parent = set_span_in_context(NonRecordingSpan(REMOTE))
        links = [Link(REMOTE, {"celery.link": "publish", "more": 1}), Link(REMOTE)]
        with tracer.start_as_current_span(
            "run shop.pay", parent, SpanKind.CONSUMER, {"int": 1, "float": 0.5}, links
        ) as span:
            span.set_attributes({"text": "ü", "flag": True, "list": [1, 2]})
            span.add_event("one", {"a": 1, "b": 2}, 5)
            span.add_event("two")
            with tracer.start_as_current_span("inner", record_exception=True) as inner:
                inner.set_status(Status(StatusCode.ERROR, "it failed"))
            span.set_status(StatusCode.OK)
    return list(exporter.get_finished_spans())


def rebuilt(span: ReadableSpan) -> ReadableSpan:
    return SpanDecoder().span(span_encoder.split(span_encoder.pack_end(span))[1], RESOURCE_BLOB)


def test_what_is_exported_is_the_same(ended: list[ReadableSpan]) -> None:
    """I look at a span in my backend, and can't tell that a relay sent it."""
    assert len(ended) == 6
    for span in ended:
        assert encode_spans([rebuilt(span)]) == encode_spans([span])


def test_integers_beyond_64_bits_arrive_as_text() -> None:
    """I record a large number, and still find it."""
    span = SpanDecoder().span(
        unexpected(span_encoder.ATTRIBUTES, {"wide": 2**63, "none": None}), RESOURCE_BLOB
    )
    assert dict(span.attributes or {}) == {"wide": str(2**63)}


def test_resources_and_scopes_are_shared(ended: list[ReadableSpan]) -> None:
    """Thousands of spans of one process cost one resource."""
    rebuilder = SpanDecoder()
    first, second = (
        rebuilder.span(span_encoder.pack_end(ended[1])[24:], RESOURCE_BLOB) for _ in range(2)
    )
    assert first.resource is second.resource
    assert first.instrumentation_scope is second.instrumentation_scope


def test_spans_are_grouped_without_reading_their_resource_again(
    ended: list[ReadableSpan],
) -> None:
    """A batch of spans of two processes arrives as two resources, each of which is named once."""
    rebuilder = SpanDecoder()
    other = frames.pack([{"service.name": "other"}, ""])
    packed = span_encoder.split(span_encoder.pack_end(ended[1]))[1]
    spans = [rebuilder.span(packed, resource_blob) for resource_blob in (RESOURCE_BLOB, other) * 3]
    assert type(spans[0].resource).__hash__ is object.__hash__
    assert type(spans[0].instrumentation_scope).__hash__ is object.__hash__
    groups = encode_spans(spans).resource_spans
    assert [len(group.scope_spans[0].spans) for group in groups] == [3, 3]


def unexpected(at: int, value: object) -> bytes:
    row: list[object] = [
        *("name", b"t" * 16, b"s" * 8, None, False, 1, "", 0, 5, 6, {}, [], [], 0, None, None),
        *(0, 0, 0),
    ]
    row[at] = value
    return frames.pack(row)


def test_the_row_of_these_tests_is_a_span() -> None:
    """The tests below change one field of a good span."""
    span = SpanDecoder().span(unexpected(span_encoder.NAME, "other"), RESOURCE_BLOB)
    assert (span.name, span.start_time, span.end_time) == ("other", 5, 6)


def nested(depth: int) -> list[object]:
    return [nested(depth - 1)] if depth else []


def test_an_attribute_that_is_nested_too_deep_becomes_a_text_inside() -> None:
    """Where a backend shows no more of it; the span is read as any other."""
    packed = unexpected(span_encoder.ATTRIBUTES, {"a": 1, "deep": nested(20)})
    attributes = SpanDecoder().span(packed, RESOURCE_BLOB).attributes or {}
    deep: Any = attributes["deep"]
    for _ in range(8):
        (deep,) = deep
    assert deep == str(nested(12))
    assert attributes["a"] == 1


NOTHING: list[object] = []
MALFORMED_PARTS: list[object] = [
    *([frames.pack({})], [frames.pack({}), {}, {}], [{}, {}], [5, {}], [None, {}], [NOTHING, {}]),
    *([frames.pack([1]), {}], [frames.pack({}), 5], [frames.pack({}), [1]], [b"", {}]),
    *([b"\xc1", {}], [frames.pack({b"k": 1}), {}], [frames.pack({"k": 1}), None]),
]
"""What are no shared attributes, or none of a span's own beside them."""
MALFORMED: list[tuple[int, object]] = [
    (span_encoder.NAME, 5),
    (span_encoder.NAME, b"bytes"),
    (span_encoder.TRACE_ID, b"short"),
    (span_encoder.TRACE_ID, "x" * 16),
    (span_encoder.SPAN_ID, None),
    (span_encoder.PARENT_SPAN_ID, b"\0" * 9),
    (span_encoder.TRACE_FLAGS, 256),
    (span_encoder.TRACE_FLAGS, NOTHING),
    (span_encoder.TRACE_STATE, 3),
    (span_encoder.KIND, 77),
    (span_encoder.START_NS, -1),
    (span_encoder.START_NS, 1.5),
    (span_encoder.END_NS, None),
    (span_encoder.ATTRIBUTES, NOTHING),
    (span_encoder.ATTRIBUTES, {b"k": 1}),
    *((span_encoder.ATTRIBUTES, value) for value in MALFORMED_PARTS),
    (span_encoder.EVENTS, 3),
    (span_encoder.EVENTS, [["name"]]),
    (span_encoder.EVENTS, [["name", None, None, 0]]),
    (span_encoder.LINKS, [[b"t" * 16]]),
    (span_encoder.LINKS, ["1234567"]),
    (span_encoder.STATUS, 3),
    (span_encoder.SCOPE, [1, 2, 3, 4]),
    (span_encoder.SCOPE, "four"),
    (span_encoder.DROPPED_LINKS, "many"),
]


@pytest.mark.parametrize(("at", "value"), MALFORMED)
def test_what_is_no_span_is_refused_in_one_way(at: int, value: object) -> None:
    """A client sends me rubbish: the batch it is in goes on without it."""
    with pytest.raises(MalformedError):
        SpanDecoder().span(unexpected(at, value), RESOURCE_BLOB)


def ended_later(**other: object) -> bytes:
    """Give the span of these tests as one that was packed when it started, but for one part."""
    parts: dict[str, object] = {
        "start": unexpected(span_encoder.END_NS, None),
        "end": 6,
        "added": {"a": 1},
        "events": [],
        "status": 0,
        "description": None,
        **other,
    }
    return frames.pack(list(parts.values()))


STARTS: list[object] = [
    *(b"", b"\xc1", frames.pack([]), frames.pack(5), b"x" * 70_000, ended_later()),
    *(unexpected(span_encoder.ATTRIBUTES, value) for value in (None, *MALFORMED_PARTS)),
]
MALFORMED_ENDS: list[tuple[str, object]] = [
    *(("start", start) for start in STARTS),
    *(("end", None), ("end", -1), ("end", "now"), ("status", 3), ("more", 1)),
    *(("added", None), ("added", 5), ("added", [1]), ("added", {b"k": 1})),
    *(("events", 3), ("events", [["name"]])),
]


def test_a_span_that_was_packed_when_it_started_is_read() -> None:
    """The tests below change one part of a good span."""
    span = SpanDecoder().span(ended_later(), RESOURCE_BLOB)
    assert (span.start_time, span.end_time, dict(span.attributes or {})) == (5, 6, {"a": 1})


@pytest.mark.parametrize(("part", "value"), MALFORMED_ENDS)
def test_what_is_no_span_that_was_packed_when_it_started_is_refused(
    part: str, value: object
) -> None:
    """A client sends me rubbish in that form: the same."""
    with pytest.raises(MalformedError):
        SpanDecoder().span(ended_later(**{part: value}), RESOURCE_BLOB)
    with pytest.raises(MalformedError):
        SpanMessages().encode(ended_later(**{part: value}), RESOURCE_BLOB)


@pytest.mark.parametrize("packed", [b"", b"\xc1", frames.pack([]), frames.pack({}), b"\x93" * 99])
def test_what_is_no_list_of_fields_is_refused(packed: bytes) -> None:
    """The same, for what is not even the right number of fields."""
    with pytest.raises(MalformedError):
        SpanDecoder().span(packed, RESOURCE_BLOB)
    with pytest.raises(MalformedError):
        SpanDecoder().resource(packed)
    with pytest.raises(FrameError):
        row_of(packed)


@pytest.mark.parametrize(
    "packed",
    [
        *(unexpected(span_encoder.ATTRIBUTES, value) for value in MALFORMED_PARTS),
        *(ended_later(start=start) for start in (b"", frames.pack([]), frames.pack(None))),
        *(ended_later(added=added) for added in (None, 5, [1])),
    ],
)
def test_a_span_that_is_no_span_is_not_taken_for_one_that_is_open(packed: bytes) -> None:
    """The relay looks into spans itself: what is malformed there is refused as a frame is."""
    with suppress(FrameError):
        assert isinstance(row_of(packed)[span_encoder.ATTRIBUTES], dict)


def test_the_caches_are_bounded() -> None:
    """A client that invents scopes without end fills no memory."""
    rebuilder = SpanDecoder()
    for number in range(1_000):
        rebuilder.span(
            unexpected(span_encoder.SCOPE, [str(number), None, None, None]), RESOURCE_BLOB
        )
        rebuilder.resource(frames.pack([{"n": number}, ""]))
    assert len(rebuilder._scopes) <= 256  # pyright: ignore[reportPrivateUsage]
    assert len(rebuilder._resources) <= 256  # pyright: ignore[reportPrivateUsage]
