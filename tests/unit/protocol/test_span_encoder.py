from __future__ import annotations

from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanLimits, TracerProvider
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    StatusCode,
    TraceFlags,
    TraceState,
)
from opentelemetry.util.types import AttributeValue

from taskobs.protocol import span_encoder, span_fit
from taskobs.protocol.frames import pack, unpack
from taskobs.protocol.sanitize import sanitize
from taskobs.protocol.span_decoder import SpanDecoder
from taskobs.protocol.span_encoder import MAX_SPAN, MAX_START, pack_end, pack_start, split
from tests.support.relay_peer import provider

REMOTE = SpanContext(
    trace_id=0xABC,
    span_id=0xDEF,
    is_remote=True,
    trace_flags=TraceFlags(1),
    trace_state=TraceState([("vendor", "x")]),
)


def make(provider: TracerProvider, **options: object) -> Span:
    """Start a span under a remote parent."""
    tracer = provider.get_tracer("shop", "1.2", "https://schema", {"scope": "mine"})
    context = trace.set_span_in_context(NonRecordingSpan(REMOTE))
    span = tracer.start_span("run shop.pay", context=context, **options)  # type: ignore[arg-type]
    assert isinstance(span, Span)
    return span


def ended(span: Span) -> ReadableSpan:
    span.end()
    return span._readable_span()  # pyright: ignore[reportPrivateUsage]


def row(payload: bytes) -> list[object]:
    fields: list[object] = unpack(split(payload)[1])
    assert len(fields) == span_encoder.FIELDS
    return fields


def test_a_span_is_packed_with_all_that_it_says() -> None:
    """Name, ids, times, attributes, events, links, status and scope are all there."""
    link = Link(REMOTE, {"celery.link": "publish"})
    span = make(
        provider(), kind=SpanKind.CONSUMER, attributes={"a": 1, "b": (1.5, 2.5)}, links=[link]
    )
    span.add_event("exception", {"exception.type": "ValueError"}, timestamp=12)
    span.set_status(StatusCode.ERROR, "broken")
    done = ended(span)
    payload = pack_end(done)
    context = span.get_span_context()
    ids = context.trace_id.to_bytes(16, "big"), context.span_id.to_bytes(8, "big")
    assert payload[: span_encoder.KEY_BYTES] == span_encoder.key_of(context) == ids[0] + ids[1]
    parent = (0xABC).to_bytes(16, "big"), (0xDEF).to_bytes(8, "big")
    assert row(payload) == [
        "run shop.pay",
        *ids,
        parent[1],
        True,
        int(context.trace_flags),
        "vendor=x",
        SpanKind.CONSUMER.value,
        done.start_time,
        done.end_time,
        {"a": 1, "b": [1.5, 2.5]},
        [["exception", 12, {"exception.type": "ValueError"}, 0]],
        [[*parent, 1, "vendor=x", {"celery.link": "publish"}, 0, True]],
        StatusCode.ERROR.value,
        "broken",
        ["shop", "1.2", "https://schema", {"scope": "mine"}],
        0,
        0,
        0,
    ]


def test_a_span_that_is_open_has_no_end_yet() -> None:
    """A START says what is known when the span starts."""
    span = make(provider(), attributes={"celery.task_name": "shop.pay"})
    fields = row(pack_start(span))
    assert fields[span_encoder.END_NS] is None
    assert fields[span_encoder.ATTRIBUTES] == {"celery.task_name": "shop.pay"}
    span.end()


def test_both_ways_of_packing_say_the_same() -> None:
    """The careful way, for what is odd, differs in nothing else."""
    span = make(provider(), attributes={"a": "x"}, links=[Link(REMOTE)])
    span.add_event("e", {"k": [1, 2]})
    done = ended(span)
    careful = span_encoder._carefully(done, MAX_SPAN)  # pyright: ignore[reportPrivateUsage]
    assert row(careful) == row(pack_end(done))


@pytest.mark.parametrize(
    ("value", "arrives"),
    [
        ("half \ud800 pair", "half ? pair"),
        (1 << 70, str(1 << 70)),
        (-(1 << 63), -(1 << 63)),
        pytest.param(1 << 20_000, "<int>", id="too long to be a string"),
        ([1 << 64, 1], [str(1 << 64), 1]),
        (["a\udfff"], ["a?"]),
    ],
)
def test_unexpected_values_arrive_in_a_form_that_fits(value: object, arrives: object) -> None:
    """Half a surrogate pair, an integer of more than 64 bits: the span comes all the same."""
    done = ended(make(provider()))
    done._attributes._dict["odd"] = value  # type: ignore[union-attr]
    attributes = row(pack_end(done))[span_encoder.ATTRIBUTES]
    assert isinstance(attributes, dict)
    assert attributes["odd"] == arrives


def test_unexpected_names_and_statuses_arrive() -> None:
    """The task's name is whatever its author, or whoever sent the message, called it."""
    span = make(provider())
    span.update_name("run \ud800")
    span.set_status(StatusCode.ERROR, "\udfff")
    fields = row(pack_end(ended(span)))
    assert (fields[span_encoder.NAME], fields[span_encoder.STATUS_DESCRIPTION]) == ("run ?", "?")


def test_a_value_of_no_known_type_arrives_as_text_even_if_it_has_none() -> None:
    """`str()` of an object that the app defines may raise."""

    class Mute:
        def __str__(self) -> str:
            raise ValueError

    assert sanitize([Mute(), {1: {2}}, b"x", bytearray(b"y")]) == [
        "<Mute>",
        {"1": "{2}"},
        b"x",
        b"y",
    ]
    deep: list[object] = []
    for _ in range(100):
        deep = [deep]
    pack(sanitize(deep))


def test_a_span_made_by_hand_is_packed() -> None:
    """It lacks the SDK's own containers."""
    context = SpanContext(1, 2, is_remote=False)
    span = ReadableSpan("made", context, attributes={"a": 1})
    assert row(pack_end(span))[span_encoder.ATTRIBUTES] == {"a": 1}


def test_what_the_sdk_has_dropped_is_counted() -> None:
    """The limits of the SDK show at the backend."""
    limits = SpanLimits(max_span_attributes=2, max_events=1, max_links=1)
    span = make(
        TracerProvider(span_limits=limits, shutdown_on_exit=False), links=[Link(REMOTE)] * 3
    )
    span.set_attributes({"a": 1, "b": 2, "c": 3})
    span.add_event("one")
    span.add_event("two")
    assert row(pack_end(ended(span)))[span_encoder.DROPPED_ATTRIBUTES :] == [1, 1, 2]


def test_a_span_that_is_too_long_arrives_without_its_long_parts() -> None:
    """Values are cut first; then what does not fit is left out, and the span is never lost."""
    span = make(provider(), attributes={"long": "x" * 3_000_000, "short": "y"})
    cut = row(pack_end(ended(span)))[span_encoder.ATTRIBUTES]
    assert isinstance(cut, dict)
    assert cut["short"] == "y"
    assert cut["long"] == "x" * 16_384

    span = make(provider(), attributes={f"long{index}": "x" * 20_000 for index in range(100)})
    span.add_event("e", {"text": "x" * 100})
    payload = pack_end(ended(span))
    assert len(payload) <= MAX_SPAN
    arrived = decoded(payload)
    assert len(arrived.attributes or {}) + arrived.dropped_attributes == 100
    assert len(arrived.attributes or {}) > 60
    assert len(arrived.events) + arrived.dropped_events == 1


def decoded(payload: bytes) -> ReadableSpan:
    """Read a payload as the relay does."""
    blob = pack([{"service.name": "shop"}, ""])
    return SpanDecoder().span(split(payload)[1], blob)


MANY = SpanLimits(max_events=100_000, max_links=100_000, max_span_attributes=100_000)


@pytest.fixture
def roomy() -> TracerProvider:
    """Give a provider that allows spans far more than the default."""
    return TracerProvider(span_limits=MANY, shutdown_on_exit=False)


@pytest.mark.parametrize(
    ("number", "attributes"),
    [(10_001, {}), (10_001, {"n": 1}), (10_001, {"list": ("a", "b")}), (70_000, {})],
)
def test_a_span_of_many_events_arrives_with_the_last_of_them(
    roomy: TracerProvider, number: int, attributes: dict[str, AttributeValue]
) -> None:
    """I raise `OTEL_SPAN_EVENT_COUNT_LIMIT`: what is left out is counted, as the SDK counts it."""
    span = make(roomy, attributes={"a": 1})
    for index in range(number):
        span.add_event(f"e{index}", attributes)
    payload = pack_end(ended(span))
    assert len(payload) <= MAX_SPAN
    arrived = decoded(payload)
    assert len(arrived.events) + arrived.dropped_events == number
    assert len(arrived.events) > 5_000
    assert arrived.events[-1].name == f"e{number - 1}"
    assert dict(arrived.attributes or {}) == {"a": 1}


def test_a_span_of_long_events_arrives_with_the_last_of_them() -> None:
    """A megabyte is what a span may have, and most of it is used."""
    span = make(provider(), attributes={"a": 1})
    for index in range(100):
        span.add_event(f"e{index}", {"text": "x" * 15_000})
    payload = pack_end(ended(span))
    arrived = decoded(payload)
    assert len(arrived.events) + arrived.dropped_events == 100
    assert len(arrived.events) > 60
    assert arrived.events[-1].name == "e99"


EMPTY: list[Any] = []
LISTS: list[Any] = [tuple(range(100_000)), ("",) * 70_000, ({},) * 30_000, [[EMPTY] * 900] * 30]


@pytest.mark.parametrize("value", LISTS, ids=["numbers", "texts", "maps", "lists"])
def test_a_span_with_a_long_list_arrives(roomy: TracerProvider, value: Any) -> None:
    """It arrives cut, and with all that is beside it."""
    span = make(roomy, attributes={"a": 1})
    span.set_attribute("ids", value)
    arrived = decoded(pack_end(ended(span)))
    assert arrived.attributes is not None
    assert arrived.attributes["a"] == 1


def test_a_span_of_many_links_arrives(roomy: TracerProvider) -> None:
    """Links beyond what a frame holds are left out, and counted."""
    span = make(roomy, links=[Link(REMOTE)] * 30_000)
    span.add_event("e")
    arrived = decoded(pack_end(ended(span)))
    assert len(arrived.links) + arrived.dropped_links == 30_000
    assert [event.name for event in arrived.events] == ["e"]


def test_what_is_left_out_is_said_once(
    roomy: TracerProvider, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """I read in the log why a span lacks events, and not for each span again."""
    monkeypatch.setattr(span_fit, "_said", set[str]())
    for _ in range(2):
        span = make(roomy)
        for _ in range(10_001):
            span.add_event("e")
        pack_end(ended(span))
    (message,) = [text for name, _, text in caplog.record_tuples if name == "taskobs"]
    assert "run shop.pay" in message
    assert "dropped" in message


def test_the_start_of_a_long_span_is_short() -> None:
    """Both sides keep it as long as the span is open."""
    span = make(provider(), attributes={f"long{index}": "x" * 9_000 for index in range(50)})
    assert len(pack_start(span)) <= MAX_START
    assert len(pack_end(ended(span))) > MAX_START


def test_the_relay_makes_the_same_span_of_it() -> None:
    """The way back gives what the exporter would have had."""
    span = make(provider(), attributes={"a": 1, "b": (1, 2)}, links=[Link(REMOTE, {"l": "k"})])
    span.add_event("e", {"x": "y"})
    done = ended(span)
    resource_blob = pack([dict(done.resource.attributes), done.resource.schema_url])
    again = SpanDecoder().span(split(pack_end(done))[1], resource_blob)
    assert again.to_json() == done.to_json()
