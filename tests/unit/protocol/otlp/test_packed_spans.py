"""Packed spans as OTLP requests, as OpenTelemetry's own encoder writes them."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

import pytest
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanLimits, TracerProvider
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

from taskobs.protocol import frames, span_encoder
from taskobs.protocol.otlp import attributes
from taskobs.protocol.otlp import spans as spans_module
from taskobs.protocol.otlp.packed_spans import SpanMessages
from taskobs.protocol.otlp.spans import encode_request
from taskobs.protocol.span_decoder import SpanDecoder
from taskobs.protocol.validation import MalformedError
from tests.support.recording import Recorder
from tests.unit.protocol.test_span_decoder import MALFORMED, RESOURCE_BLOB, nested, unexpected

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
    "long": "x" * 100_000,
    "wide": "\N{SNOWMAN}" * 127,
    "wider": "\N{PILE OF POO}" * 127,
    "k" * 300: "long key",
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


def packed(span: ReadableSpan) -> tuple[bytes, bytes]:
    """Give a span and its resource as the relay stores them."""
    resource = frames.pack([dict(span.resource.attributes), span.resource.schema_url])
    return span_encoder.split(span_encoder.pack_end(span))[1], resource


def request(*items: tuple[bytes, bytes]) -> Any:
    messages = SpanMessages()
    encoded = encode_request(messages.encode(*item) for item in items)
    return ExportTraceServiceRequest.FromString(encoded)


def decoded(*items: tuple[bytes, bytes]) -> list[ReadableSpan]:
    decoder = SpanDecoder()
    return [decoder.span(*item) for item in items]


def test_spans_are_encoded_as_the_exporter_does() -> None:
    """A collector gets the same message from either."""
    found = spans()
    assert len(found) == 28
    theirs = encode_spans(found)
    if not WHOLE_SCOPES:
        add_scopes(theirs)
    assert request(*map(packed, found)) == theirs


def test_spans_that_dropped_something_say_so() -> None:
    """My limits are low: what did not fit is counted, as with the exporter."""
    recorder = Recorder()
    limits = SpanLimits(max_attributes=2, max_events=1, max_links=1, max_event_attributes=1)
    provider = TracerProvider(span_limits=limits, shutdown_on_exit=False)
    provider.add_span_processor(recorder)
    links = [Link(parent(remote=True), ATTRIBUTES)] * 3
    with provider.get_tracer("t").start_as_current_span("full", None, links=links) as span:
        span.set_attributes(ATTRIBUTES)
        for number in range(3):
            span.add_event(str(number), ATTRIBUTES)
    found = request(*map(packed, recorder.spans))
    assert found == encode_spans(recorder.spans)
    [sent] = found.resource_spans[0].scope_spans[0].spans
    assert (sent.dropped_attributes_count, sent.dropped_events_count) == (len(ATTRIBUTES) - 2, 2)


@pytest.mark.parametrize(
    "given",
    [
        {"bytes": b"\xff", "map": {"a": {"b": [1, "c", True, 0.5, b"x"]}}, "empty": {}},
        {"wide": 2**63, "low": -(2**63), "none": None, "inside": [2**63 + 1]},
        {"deep": nested(20), "nan": float("nan")},
        {"": "no key"},
    ],
)
def test_what_msgpack_holds_is_encoded_as_the_exporter_does(given: dict[str, Any]) -> None:
    """Another process sends values that the SDK makes none of: they arrive as they did."""
    item = (unexpected(span_encoder.ATTRIBUTES, given), RESOURCE_BLOB)
    sent = request(item).SerializeToString(deterministic=True)
    assert sent == encode_spans(decoded(item)).SerializeToString(deterministic=True)


def test_an_empty_place_in_a_list_is_kept() -> None:
    """I record a list with a None in it; exporters before 1.40 lose the whole attribute."""
    item = (unexpected(span_encoder.ATTRIBUTES, {"mixed": ["a", None]}), RESOURCE_BLOB)
    [scope] = request(item).resource_spans[0].scope_spans
    first, second = scope.spans[0].attributes[0].value.array_value.values
    assert (first.string_value, second.WhichOneof("value")) == ("a", None)


def test_keys_without_number_fill_no_memory() -> None:
    """A task makes keys of its data, and each is sent."""
    items = [
        (unexpected(span_encoder.ATTRIBUTES, {f"order {number}": number}), RESOURCE_BLOB)
        for number in range(3_000)
    ]
    [scope] = request(*items).resource_spans[0].scope_spans
    assert [span.attributes[0].key for span in scope.spans] == [f"order {n}" for n in range(3_000)]
    assert len(attributes._keys) <= attributes._KEYS  # pyright: ignore[reportPrivateUsage]


def test_values_without_number_fill_no_memory() -> None:
    """A task records ids and texts of any length under one key: each is sent, few are kept."""
    values = [value for number in range(500) for value in (f"id {number}", number, "x" * number)]
    items = [(unexpected(span_encoder.ATTRIBUTES, {"key": one}), RESOURCE_BLOB) for one in values]
    for _ in range(2):
        sent = request(*items).SerializeToString(deterministic=True)
        assert sent == encode_spans(decoded(*items)).SerializeToString(deterministic=True)
    kept = attributes._keys["key"].pairs  # pyright: ignore[reportPrivateUsage]
    assert len(kept) <= attributes._PAIRS  # pyright: ignore[reportPrivateUsage]
    assert max(map(len, kept.values())) < 256


def test_equal_values_of_other_types_stay_apart() -> None:
    """I record 1, then True and 1.0 under the same key: each arrives as what it is."""
    values: tuple[object, ...] = (1, True, 1.0, "1", 0, False, -1, 2**63, 1)
    items = [(unexpected(span_encoder.ATTRIBUTES, {"key": one}), RESOURCE_BLOB) for one in values]
    sent = request(*items).SerializeToString(deterministic=True)
    assert sent == encode_spans(decoded(*items)).SerializeToString(deterministic=True)


def test_names_without_number_fill_no_memory() -> None:
    """A library names spans after its data, or gives them long names: each is sent."""
    names = [f"GET /{number}" for number in range(3_000)] + ["n" * 500, ""]
    items = [(unexpected(span_encoder.NAME, name), RESOURCE_BLOB) for name in names]
    [scope] = request(*items).resource_spans[0].scope_spans
    assert [span.name for span in scope.spans] == names
    assert len(spans_module._names) <= spans_module._NAMES  # pyright: ignore[reportPrivateUsage]
    assert "n" * 500 not in spans_module._names  # pyright: ignore[reportPrivateUsage]


def test_shared_attributes_without_number_fill_no_memory() -> None:
    """Pool children come and go, each with its own: they are sent, and few are kept."""
    shared = [frames.pack({"pid": number, "queue": "orders"}) for number in range(3_000)]
    shared.append(frames.pack({"long": "x" * 5_000}))
    items = [
        (unexpected(span_encoder.ATTRIBUTES, [one, {"own": 1}]), RESOURCE_BLOB) for one in shared
    ]
    [scope] = request(*items).resource_spans[0].scope_spans
    assert [
        {attribute.key: attribute.value.int_value for attribute in span.attributes}["own"]
        for span in scope.spans
    ] == [1] * len(shared)
    assert [span.attributes[0].value.int_value for span in scope.spans[:-1]] == list(range(3_000))
    assert len(spans_module._shared) <= spans_module._SETS  # pyright: ignore[reportPrivateUsage]
    assert shared[-1] not in spans_module._shared  # pyright: ignore[reportPrivateUsage]


def test_no_attribute_is_sent_twice() -> None:
    """A time limit strikes while a span takes what it shares for its own: each is sent once."""
    shared = frames.pack({"queue": "orders", "pid": 5})
    parts = unexpected(span_encoder.ATTRIBUTES, [shared, {"own": 1, "pid": 6}])
    whole = unexpected(span_encoder.ATTRIBUTES, {"queue": "orders", "pid": 6, "own": 1})
    assert request((parts, RESOURCE_BLOB)) == request((whole, RESOURCE_BLOB))


def test_long_keys_fill_no_memory() -> None:
    """A task takes whole texts as keys: they are sent, and not kept."""
    keys = [f"{number}" * 1_000 for number in range(1, 5)]
    given = unexpected(span_encoder.ATTRIBUTES, dict.fromkeys(keys, 1))
    [scope] = request((given, RESOURCE_BLOB)).resource_spans[0].scope_spans
    assert [attribute.key for attribute in scope.spans[0].attributes] == keys
    assert attributes._keys.keys().isdisjoint(keys)  # pyright: ignore[reportPrivateUsage]


@pytest.mark.parametrize(("at", "value"), MALFORMED)
def test_what_is_no_span_is_refused_in_one_way(at: int, value: object) -> None:
    """A client sends me rubbish: the batch it is in goes on without it."""
    with pytest.raises(MalformedError):
        SpanMessages().encode(unexpected(at, value), RESOURCE_BLOB)


@pytest.mark.parametrize("given", [b"", b"\xc1", frames.pack([]), frames.pack({}), b"\x93" * 99])
def test_what_is_no_list_of_fields_is_refused(given: bytes) -> None:
    """The same, for what is not even the right number of fields, or no resource."""
    with pytest.raises(MalformedError):
        SpanMessages().encode(given, RESOURCE_BLOB)
    with pytest.raises(MalformedError):
        SpanMessages().encode(unexpected(span_encoder.NAME, "fine"), given)


def test_a_route_or_a_mark_at_the_end_is_no_field_of_the_span() -> None:
    """Spans of the app's own provider, and those that are kept, have one or two fields more."""
    row: list[object] = frames.unpack(unexpected(span_encoder.NAME, "fine"))
    plain = request((frames.pack(row), RESOURCE_BLOB))
    assert request((frames.pack([*row, b"route"]), RESOURCE_BLOB)) == plain
    assert request((frames.pack([*row, b"mark", 1]), RESOURCE_BLOB)) == plain
