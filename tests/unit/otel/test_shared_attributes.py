"""A run's span shares most of its attributes with others: it exports the same as if it had all."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from typing import Any, cast

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanLimits, SpanProcessor
from opentelemetry.trace import INVALID_SPAN_CONTEXT, SpanKind, Status, StatusCode

from taskobs.model.attributes import Parts, SharedAttributes
from taskobs.otel.export.span_requests import SpanRequests
from taskobs.otel.fast_provider import FastSpanProvider
from taskobs.otel.fast_spans import FastSpan
from taskobs.otel.fast_tracer import FastSpanTracer
from taskobs.otel.relay_processor import RelayProcessor
from taskobs.protocol.frames import pack, unpack
from taskobs.protocol.otlp.packed_spans import SpanMessages
from taskobs.protocol.otlp.spans import encode_request
from taskobs.protocol.span_decoder import SpanDecoder
from taskobs.protocol.span_encoder import ATTRIBUTES
from taskobs.relay_client.client import RelayClient
from tests.support.counted_ids import Counted
from tests.support.fast_spans import NEEDS_FAST_SPANS, RecordingClient

SHARED: dict[str, Any] = {"celery.queue": "orders", "server.port": 6379, "redelivered": False}
OWN: dict[str, Any] = {"celery.task_id": "one", "celery.attempt": 1}
RESOURCE = pack([{"service.name": "shop"}, ""])
Act = Callable[[FastSpan], object]

pytestmark = NEEDS_FAST_SPANS


def parts() -> Parts:
    shared = SharedAttributes(pack(SHARED))
    shared.attributes = SHARED
    return shared, dict(OWN)


def all_in_one() -> dict[str, Any]:
    return {**SHARED, **OWN}


class Collected(SpanProcessor):
    """Takes the place of what exports spans from this process."""

    def __init__(self) -> None:
        self.spans: list[ReadableSpan] = []

    def on_end(self, span: ReadableSpan) -> None:
        self.spans.append(span)

    def fast_span_started(self, span: FastSpan) -> None: ...

    def fast_span_ended(self, span: FastSpan, *, again: bool = False) -> None:
        assert not again
        self.spans.append(span)


def begun(
    to: RecordingClient | Collected,
    describe: Callable[[], Any],
    limits: SpanLimits | None = None,
) -> FastSpan:
    provider = FastSpanProvider(
        shutdown_on_exit=False, id_generator=Counted(), span_limits=limits or SpanLimits()
    )
    receiver: RelayProcessor | Collected = (
        to
        if isinstance(to, Collected)
        else RelayProcessor(cast("RelayClient", to), SpanProcessor())
    )
    provider.add_span_processor(receiver)
    provider.route_to(receiver)
    tracer = provider.get_tracer("shop")
    assert isinstance(tracer, FastSpanTracer)
    nobody, kind = INVALID_SPAN_CONTEXT, SpanKind.CONSUMER
    span = tracer.start_described("run pay", None, nobody, kind, describe, 1_000)
    assert isinstance(span, FastSpan)
    return span


def looked_at(span: FastSpan) -> None:
    assert dict(span.attributes or {}) == {**SHARED, **OWN}


def looked_at_and_added_to(span: FastSpan) -> None:
    looked_at(span)
    span.set_attribute("order", 5)


def one_after_the_other(span: FastSpan) -> None:
    assert span.try_set_attributes({"a": 1})
    span.set_attribute("b", 2)
    assert span.try_set_attributes({"c": 3})


ACTS: dict[str, Act] = {
    "nothing": lambda _: None,
    "an attribute": lambda span: span.set_attribute("order", 5),
    "a shared one again": lambda span: span.set_attribute("celery.queue", "other"),
    "an own one again": lambda span: span.set_attribute("celery.attempt", 2),
    "attributes": lambda span: span.set_attributes({"order": 5, "celery.queue": "other"}),
    "unchecked": lambda span: span.try_set_attributes({"outcome": "succeeded", "state": "SUCCESS"}),
    "unchecked, a shared one": lambda span: span.try_set_attributes({"celery.queue": "other"}),
    "unchecked, an own one": lambda span: span.try_set_attributes({"celery.attempt": 2, "x": 1}),
    "one after the other": one_after_the_other,
    "no value": lambda span: span.set_attribute("bad", cast("Any", object())),
    "half a surrogate pair": lambda span: span.set_attribute("odd", "\ud800"),
    "too long a value": lambda span: span.set_attribute("long", "x" * 2_000_000),
    "another name": lambda span: span.update_name("run other"),
    "an event": lambda span: span.add_event("cache miss", {"key": "k"}, 1_500),
    "a status": lambda span: span.set_status(Status(StatusCode.ERROR, "no funds")),
    "a look": looked_at,
    "a look, then an attribute": looked_at_and_added_to,
}


def message_in(body: bytes) -> Any:
    """Return the one span of a request, its attributes by key."""
    [scope] = ExportTraceServiceRequest.FromString(body).resource_spans[0].scope_spans
    [message] = scope.spans
    attributes = sorted(message.attributes, key=lambda one: one.key)
    del message.attributes[:]
    message.attributes.extend(attributes)
    return message


@pytest.mark.parametrize("act", ACTS)
def test_a_span_that_shares_attributes_exports_what_one_with_all_of_them_does(act: str) -> None:
    """Whatever my task does with the span of its run, the same arrives; a dead child's, too."""
    ours, other = RecordingClient(), RecordingClient()
    for client, describe in ((ours, parts), (other, all_in_one)):
        span = begun(client, describe)
        assert (type(span.fast_row[ATTRIBUTES]) is tuple) is (describe is parts)
        ACTS[act](span)
        span.end(2_000)
    for row, expected in zip(ours.starts + ours.ends, other.starts + other.ends, strict=True):
        assert row == expected
        assert row[ATTRIBUTES].keys() >= {*SHARED, *OWN}
    [packed], [whole_packed] = ours.packed_ends, other.packed_ends
    assert message_in(encode_request([SpanMessages().encode(packed, RESOURCE)])) == message_in(
        encode_request([SpanMessages().encode(whole_packed, RESOURCE)])
    )
    decoded, whole = (
        json.loads(SpanDecoder().span(one, RESOURCE).to_json()) for one in (packed, whole_packed)
    )
    assert decoded == whole


@pytest.mark.parametrize("act", ACTS)
def test_it_does_so_without_a_relay(act: str) -> None:
    """The same for a process that exports by itself."""
    messages: list[Any] = []
    for describe in (parts, all_in_one):
        collected = Collected()
        span = begun(collected, describe)
        ACTS[act](span)
        span.end(2_000)
        messages.append(message_in(SpanRequests().encode(collected.spans)))
    assert messages[0] == messages[1]
    assert len(messages[0].attributes) >= len(SHARED) + len(OWN)


def test_what_was_packed_at_the_start_is_taken_over() -> None:
    """A run that adds its outcome, as most do, sends what its start has said as it was packed."""
    client = RecordingClient()
    span = begun(client, parts)
    assert span.try_set_attributes({"outcome": "succeeded"})
    span.end(2_000)
    [start], [end] = client.packed_starts, client.packed_ends
    assert unpack(end) == [start, 2_000, {"outcome": "succeeded"}, [], 0, None]


def test_shared_attributes_count_for_my_limit() -> None:
    """I allow 64 attributes: a task that sets 70 has the newest 64, as with the SDK's own spans."""
    limits = SpanLimits(max_span_attributes=64)
    ends: list[Any] = []
    for describe in (parts, all_in_one):
        client = RecordingClient()
        span = begun(client, describe, limits)
        for number in range(70):
            span.set_attribute(f"a{number}", number)
        assert not span.try_set_attributes({"outcome": "succeeded"})
        span.end(2_000)
        ends.append(client.ends[0][ATTRIBUTES])
    assert ends[0] == ends[1]
    assert len(ends[0]) == 64


@pytest.mark.usefixtures("eager_threads")
def test_threads_that_add_to_a_run_at_a_time_lose_nothing() -> None:
    """Threads of my task set attributes on its span: each arrives, and the shared ones too."""
    for _ in range(200):
        client = RecordingClient()
        span = begun(client, parts)
        threads = [
            threading.Thread(target=span.set_attribute, args=(f"a{number}", number))
            for number in range(3)
        ]
        threads.append(threading.Thread(target=span.try_set_attributes, args=({"b": 1},)))
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        span.end(2_000)
        found = client.ends[0][ATTRIBUTES]
        expected = {**SHARED, **OWN, "a0": 0, "a1": 1, "a2": 2, "b": 1}
        assert found == expected
        assert dict(cast("Span", span).attributes or {}) == expected
