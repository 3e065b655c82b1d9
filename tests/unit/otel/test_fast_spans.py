"""A fast span reads as one of the SDK's, for the app that holds it and for the relay."""

# What other libraries reach into is private to the SDK.
# pyright: reportPrivateUsage=false

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from copy import copy
from itertools import count, product
from typing import Any, cast

import pytest
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import (
    ReadableSpan,
    Span,
    SpanLimits,
    SpanProcessor,
    TracerProvider,
)
from opentelemetry.sdk.trace.sampling import (
    ALWAYS_OFF,
    ALWAYS_ON,
    Decision,
    ParentBased,
    ParentBasedTraceIdRatio,
    Sampler,
    StaticSampler,
    TraceIdRatioBased,
)
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode, TraceFlags

from taskobs.observers.attributes import add
from taskobs.observers.deferred_attributes import DeferredAttributes
from taskobs.otel._sdk_compat import set_unchecked
from taskobs.otel.fast_provider import FastSpanProvider, use_sampler
from taskobs.otel.fast_spans import FastSpan
from taskobs.otel.fast_tracer import FastSpanTracer
from taskobs.otel.relay_processor import RelayProcessor
from taskobs.protocol.span_encoder import (
    ATTRIBUTES,
    END_NS,
    EVENTS,
    START_NS,
)
from taskobs.relay_client.client import RelayClient
from tests.support.counted_ids import Counted
from tests.support.fast_spans import NEEDS_FAST_SPANS, RecordingClient
from tests.support.recording import Recorder

REMOTE = SpanContext(
    trace_id=0xABC,
    span_id=0xDEF,
    is_remote=True,
    trace_flags=TraceFlags(1),
    trace_state=trace.TraceState([("vendor", "x")]),
)
Act = Callable[[Span], object]

pytestmark = NEEDS_FAST_SPANS


def provider_for(
    client: RecordingClient,
    *,
    fast: bool = True,
    direct: SpanProcessor | None = None,
    **options: Any,
) -> FastSpanProvider:
    """Give a provider whose spans go to ``client``: fast spans or the SDK's own."""
    spans = RelayProcessor(cast("RelayClient", client), direct or SpanProcessor())
    given: dict[str, Any] = {
        "id_generator": Counted(),
        "resource": Resource({"service.name": "shop"}),
        **options,
    }
    provider = FastSpanProvider(shutdown_on_exit=False, **given)
    provider.add_span_processor(spans)
    if fast:
        provider.route_to(spans)
    return provider


def tracer_of(provider: TracerProvider) -> trace.Tracer:
    return provider.get_tracer("shop", "1.2", "https://schema", {"scope": "mine"})


def timeless(rows: list[list[Any]]) -> list[list[Any]]:
    """Leave out what a clock said."""
    for row in rows:
        for column in (START_NS, END_NS):
            row[column] = row[column] is not None
        for event in row[EVENTS]:
            event[1] = event[1] > 0
            event[2].pop("exception.stacktrace", None)
    return rows


def nothing(_: Span) -> None: ...


def fail(_: Span) -> None:
    raise ValueError("as asked")


def ends_itself(span: Span) -> None:
    span.end()
    span.set_attribute("late", 1)


def looked_at(span: Span) -> None:
    assert span.attributes is not None
    assert not span.events
    assert len(span.links) < 2


ACTS: dict[str, Act] = {
    "nothing": nothing,
    "an attribute": lambda span: span.set_attribute("http.status_code", 200),
    "attributes": lambda span: span.set_attributes({"given": "again", "odd": ("a", "b")}),
    "a value that is none": lambda span: span.set_attribute("bad", cast("Any", object())),
    "an event": lambda span: span.add_event("cache miss", {"key": "k"}),
    "an exception": lambda span: span.record_exception(ValueError("told")),
    "a status": lambda span: span.set_status(Status(StatusCode.ERROR, "broken")),
    "another name": lambda span: span.update_name("GET /orders"),
    "a link": lambda span: span.add_link(REMOTE, {"why": "asked"}),
    "half a surrogate pair": lambda span: span.set_attribute("odd", "\ud800"),
    "too long a value": lambda span: span.set_attribute("long", "x" * 2_000_000),
    "a look": looked_at,
    "its own end": ends_itself,
    "a failure": fail,
}
GIVEN: dict[str, dict[str, Any]] = {
    "nothing": {},
    "attributes": {"attributes": {"given": "at the start", "list": [1, 2], "bad": {1, 2}}},
    "a kind": {"kind": SpanKind.SERVER},
    "a parent": {"context": trace.set_span_in_context(trace.NonRecordingSpan(REMOTE), Context())},
    "links": {"links": [Link(REMOTE, {"a": 1})]},
    "no record of exceptions": {"record_exception": False, "set_status_on_exception": False},
}
LIMITS = {
    "default": SpanLimits(),
    "few": SpanLimits(max_span_attributes=1, max_events=0, max_links=0),
    "short": SpanLimits(max_span_attribute_length=4),
    "none": SpanLimits(max_span_attributes=0),
}


@pytest.mark.parametrize("act", ACTS)
def test_a_fast_span_exports_what_the_sdk_s_own_exports(act: str) -> None:
    """Whatever my code does with its spans, the same arrives."""
    for given, limits in product(GIVEN, LIMITS):
        ours, stock = (
            exported(ACTS[act], given, LIMITS[limits], fast=fast) for fast in (True, False)
        )
        assert timeless(ours.starts) == timeless(stock.starts), (given, limits)
        assert timeless(ours.ends) == timeless(stock.ends), (given, limits)
        assert len(ours.ends) == 2


def exported(act: Act, given: str, limits: SpanLimits, *, fast: bool) -> RecordingClient:
    client = RecordingClient()
    tracer = tracer_of(provider_for(client, fast=fast, span_limits=limits))
    for _ in range(2):
        with suppress(ValueError), tracer.start_as_current_span("GET", **GIVEN[given]) as span:
            assert isinstance(span, Span)
            assert isinstance(span, FastSpan) is (fast and given != "links")
            act(span)
    return client


@pytest.mark.parametrize("act", [act for act in ACTS if act != "a failure"])
def test_a_fast_span_reads_as_the_sdk_s_own(act: str) -> None:
    """What reads the current span, or exports it in another way, finds all it knows."""
    seen: list[dict[str, Any]] = []
    for fast in (True, False):
        span = tracer_of(provider_for(RecordingClient(), fast=fast)).start_span(
            "GET", attributes={"given": "x"}
        )
        assert isinstance(span, Span)
        ACTS[act](span)
        before = span.is_recording()
        span.end()
        shown = json.loads(span.to_json())
        for name in ("start_time", "end_time"):
            assert shown.pop(name)
        for event in shown["events"]:
            assert event.pop("timestamp")
            event["attributes"].pop("exception.stacktrace", None)
        assert not hasattr(span, "anything else")
        scope = span.instrumentation_scope
        assert scope is not None
        seen.append({**shown, "before": before, "after": span.is_recording(), "scope": scope.name})
        assert repr(span).startswith(f"{type(span).__name__}(name=")
    assert seen[0] == seen[1]


def test_times_that_are_given_are_kept() -> None:
    """Instrumentations tell of what is over."""
    client = RecordingClient()
    span = tracer_of(provider_for(client)).start_span("x", start_time=5)
    span.end(end_time=7)
    assert [(row[START_NS], row[END_NS]) for row in client.ends] == [(5, 7)]


def test_a_span_ends_once(caplog: pytest.LogCaptureFixture) -> None:
    """A second end logs the warning of the SDK, and changes nothing."""
    client = RecordingClient()
    span = tracer_of(provider_for(client)).start_span("x")
    span.end(end_time=7)
    with caplog.at_level(logging.WARNING):
        span.end(end_time=8)
        span.set_attribute("a", 1)
    assert [row[END_NS] for row in client.ends] == [7]
    assert len(caplog.messages) == 2


def test_a_span_ends_once_at_whatever_time() -> None:
    """Also if I give the same time twice, and if it has first ended another way."""
    client = RecordingClient()
    provider = provider_for(client)
    tracer = tracer_of(provider)
    span = tracer.start_span("x")
    span.end(7)
    span.end(7)
    other = tracer.start_span("y")
    provider.route_to(None)
    other.end(8)
    provider.route_to(cast("RelayProcessor", provider._active_span_processor._span_processors[0]))
    other.end(9)
    assert [row[END_NS] for row in client.ends] == [7, 8]


def test_threads_that_end_a_span_at_a_time_tell_of_it_once() -> None:
    """They may share the current span."""
    client = RecordingClient()
    tracer = tracer_of(provider_for(client))
    for _ in range(100):
        in_threads(tracer.start_span("x").end)
    assert len(client.ends) == 100


def test_threads_that_look_at_a_span_at_a_time_lose_nothing() -> None:
    """Whatever they add to the task's span arrives."""
    client = RecordingClient()
    tracer = tracer_of(provider_for(client))
    for _ in range(100):
        span = tracer.start_span("x")
        numbers = count()

        def add(span: trace.Span = span, numbers: Any = numbers) -> None:
            number = next(numbers)
            span.set_attribute(f"a{number}", number)
            span.add_event(f"e{number}")

        in_threads(add)
        span.end()
    assert all(len(row[ATTRIBUTES]) == len(row[EVENTS]) == 4 for row in client.ends)


@pytest.mark.usefixtures("eager_threads")
def test_threads_that_ask_for_more_at_a_time_lose_nothing() -> None:
    """While one adds what only the SDK's fields hold, the others' additions arrive, each once."""
    client = RecordingClient()
    tracer = tracer_of(provider_for(client))
    for _ in range(300):
        span = tracer.start_span("x")
        numbers = count()

        def add(span: trace.Span = span, numbers: Any = numbers) -> None:
            number = next(numbers)
            span.set_attribute(f"a{number}", number)
            span.add_event(f"e{number}")
            if number % 2:
                span.add_link(REMOTE)
            span.set_attribute(f"b{number}", number)
            span.add_event(f"f{number}")

        in_threads(add)
        span.end()
    for row in client.ends:
        assert len(row[ATTRIBUTES]) == 8
        assert sorted(event[0] for event in row[EVENTS]) == sorted(
            f"{name}{number}" for name in "ef" for number in range(4)
        )


def in_threads(act: Callable[[], object]) -> None:
    barrier = threading.Barrier(4)

    def run() -> None:
        barrier.wait()
        act()

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


# Which spans are light.


def parent(flags: int, *, remote: bool = True) -> Context:
    above = SpanContext(0xABC, 0xDEF, is_remote=remote, trace_flags=TraceFlags(flags))
    return trace.set_span_in_context(trace.NonRecordingSpan(above), Context())


def invalid() -> Context:
    """Give a parent that is none, though it has a trace state."""
    above = SpanContext(0, 0, is_remote=True, trace_state=trace.TraceState([("vendor", "x")]))
    return trace.set_span_in_context(trace.NonRecordingSpan(above), Context())


SAMPLERS: dict[str, Sampler] = {
    "always on": ALWAYS_ON,
    "always off": ALWAYS_OFF,
    "half": TraceIdRatioBased(0.5),
    "parent": ParentBased(ALWAYS_ON),
    "parent or half": ParentBasedTraceIdRatio(0.5),
    "stubborn": ParentBased(ALWAYS_ON, remote_parent_sampled=ALWAYS_OFF),
    "stubborn here": ParentBased(ALWAYS_OFF, local_parent_not_sampled=ALWAYS_ON),
    "recording": StaticSampler(Decision.RECORD_ONLY),
}


@pytest.mark.parametrize(
    "context",
    [Context(), invalid(), *(parent(n) for n in range(4)), parent(0, remote=False)],
)
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_it_decides_as_my_sampler_does(sampler: str, context: Context) -> None:
    """With whatever is configured: the decision, the flags and the ids are the SDK's."""
    contexts: list[list[SpanContext]] = []
    for fast in (True, False):
        tracer = tracer_of(provider_for(RecordingClient(), fast=fast, sampler=SAMPLERS[sampler]))
        spans = [tracer.start_span("x", context) for _ in range(3)]
        contexts.append([span.get_span_context() for span in spans])
        if sampler == "recording":
            assert all(span.is_recording() for span in spans)
    assert contexts[0] == contexts[1]
    assert [one.trace_flags for one in contexts[0]] == [one.trace_flags for one in contexts[1]]
    assert [one.trace_state for one in contexts[0]] == [one.trace_state for one in contexts[1]]


@pytest.mark.parametrize("context", [Context(), parent(0), parent(1)])
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_it_decides_as_the_sampler_of_a_rule_does(sampler: str, context: Context) -> None:
    """A tracer that was given a sampler of its own: also there, the SDK's spans are the same."""
    contexts: list[list[SpanContext]] = []
    for fast in (True, False):
        given: Any = copy(tracer_of(provider_for(RecordingClient(), fast=fast)))
        use_sampler(given, SAMPLERS[sampler])
        spans = [given.start_span("x", context) for _ in range(3)]
        contexts.append([span.get_span_context() for span in spans])
    assert contexts[0] == contexts[1]
    assert [one.trace_flags for one in contexts[0]] == [one.trace_flags for one in contexts[1]]


def test_a_processor_of_mine_sees_all_spans() -> None:
    """Added before or later, it gets what the SDK gives it."""
    client, mine = RecordingClient(), Recorder()
    provider = provider_for(client)
    tracer = tracer_of(provider)
    before = tracer.start_span("before")
    provider.add_span_processor(mine)
    tracer.start_span("after").end()
    before.end()
    assert {span.name for span in mine.spans} == {"before", "after"}
    assert {row[0] for row in client.ends} == {"before", "after"}


def test_when_the_relay_has_gone_for_good_spans_are_exported_directly() -> None:
    """Those that were open too."""
    client, direct = RecordingClient(), Recorder()
    provider = provider_for(client, direct=direct)
    tracer = tracer_of(provider)
    opened = tracer.start_span("open", attributes={"a": 1})
    client.unavailable = True
    tracer.start_span("new", attributes={"a": 1}).end()
    opened.end()
    assert {span.name for span in direct.spans} == {"new", "open"}
    assert all(dict(span.attributes or {}) == {"a": 1} for span in direct.spans)
    assert not client.ends


@pytest.mark.parametrize("how", ["behind", "instead"])
def test_a_processor_that_comes_another_way_sees_all_spans_too(how: str) -> None:
    """Some libraries put theirs where the SDK keeps them."""
    mine = Recorder()
    provider = provider_for(RecordingClient())
    tracer = tracer_of(provider)
    processors: Any = provider._active_span_processor
    if how == "behind":
        processors.add_span_processor(mine)
    else:
        processors._span_processors = (mine,)
    tracer.start_span("x").end()
    assert [span.name for span in mine.spans] == ["x"]


def test_another_sampler_is_asked() -> None:
    """Put in the place of mine, it decides from then on."""
    tracer: Any = tracer_of(provider_for(RecordingClient()))
    tracer.sampler = ALWAYS_OFF
    assert not tracer.start_span("x").is_recording()


def test_the_resource_is_that_of_this_process() -> None:
    """The SDK gives a forked child another one."""
    provider = provider_for(RecordingClient())
    span: Any = tracer_of(provider).start_span("x")
    assert span.resource is provider.resource
    provider._resource = Resource({"service.name": "child"})
    assert span.resource.attributes["service.name"] == "child"


@pytest.mark.parametrize("unexpected", ["server", 2, None])
def test_a_kind_that_is_none_is_no_trouble_of_mine(unexpected: object) -> None:
    """The SDK takes whatever it is given."""
    for fast in (True, False):
        span: Any = tracer_of(provider_for(RecordingClient(), fast=fast)).start_span(
            "x", kind=cast("Any", unexpected)
        )
        span.end()
        assert span.kind == unexpected


def test_what_is_put_into_a_span_arrives() -> None:
    """Libraries that redact, or that tell of what was before, reach into the SDK's spans."""
    client = RecordingClient()
    tracer = tracer_of(provider_for(client))
    earlier: Any = tracer.start_span("earlier")
    earlier._start_time = 5
    earlier.end()
    redacted: Any = tracer.start_span("redacted", attributes={"secret": 1})
    redacted._attributes = {"kept": 2}
    with suppress(AttributeError):  # as some releases of the SDK
        redacted.end()
    assert client.ends[0][START_NS] == 5
    assert client.ends[1][ATTRIBUTES] == {"kept": 2}


def test_a_parameter_of_a_later_release_is_passed_on() -> None:
    """It is for the SDK to know, or not."""
    tracer: Any = tracer_of(provider_for(RecordingClient()))
    with pytest.raises(TypeError, match="of_tomorrow"):
        tracer.start_span("x", of_tomorrow=1)


def test_it_is_put_back() -> None:
    """After my session is over, spans are the SDK's own again."""
    provider = provider_for(RecordingClient())
    tracer = tracer_of(provider)
    opened = tracer.start_span("open")
    provider.route_to(None)
    assert type(tracer.start_span("new")).__module__.startswith("opentelemetry.")
    opened.end()
    assert not opened.is_recording()


@pytest.mark.parametrize("change", ["another field", "another end", "its own metrics"])
def test_an_sdk_that_is_not_known_is_left_alone(
    monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    """Another release of it may keep more in a span, and the spans are its own then."""
    if change == "another field":
        make = Span.__init__

        def init(self: Any, *args: Any, **named: Any) -> None:
            make(self, *args, **named)
            self._more = 1

        monkeypatch.setattr(Span, "__init__", init)
    elif change == "another end":
        monkeypatch.setattr(Span, "end", nothing)
    else:
        monkeypatch.setenv("OTEL_PYTHON_SDK_INTERNAL_METRICS_ENABLED", "true")
    tracer = tracer_of(provider_for(RecordingClient()))
    if change == "its own metrics" and not hasattr(tracer, "_tracer_metrics"):
        pytest.skip("this release of the SDK has no metrics of its own")
    assert type(tracer) is not FastSpanTracer
    assert type(tracer.start_span("x")).__module__.startswith("opentelemetry.")


def test_a_tracer_can_be_switched_off() -> None:
    """Where the SDK can do that."""
    tracer: Any = tracer_of(provider_for(RecordingClient()))
    if not hasattr(tracer, "_tracer_config"):
        pytest.skip("this release of the SDK can't")
    tracer._tracer_config.is_enabled = False
    assert not tracer.start_span("x").is_recording()


class Unexpected(trace.NonRecordingSpan):
    """Somebody's own span, which has no context."""

    def get_span_context(self) -> SpanContext:
        return cast("SpanContext", None)


def test_below_a_span_without_a_context_a_span_is_the_sdk_s_own() -> None:
    """The SDK takes it for none."""
    context = trace.set_span_in_context(Unexpected(REMOTE), Context())
    tracer = tracer_of(provider_for(RecordingClient()))
    span = tracer.start_span("x", context)
    assert isinstance(span, Span)
    assert not isinstance(span, FastSpan)
    assert span.parent is None


# What is described.


@pytest.mark.parametrize("limits", LIMITS)
def test_what_is_described_is_kept_within_my_limits(limits: str) -> None:
    """Where they allow few attributes, or short ones, the SDK sees to that."""
    both: list[RecordingClient] = []
    for fast in (True, False):
        client = RecordingClient()
        tracer = tracer_of(provider_for(client, fast=fast, span_limits=LIMITS[limits]))
        deferred = DeferredAttributes.install(tracer, set_unchecked)
        assert deferred is not None
        nobody = trace.INVALID_SPAN_CONTEXT
        describe: Callable[[], Any] = lambda: {"a": "long enough", "b": 2}  # noqa: E731
        span = deferred.start_span("run x", None, nobody, SpanKind.CONSUMER, describe)
        assert isinstance(span, FastSpan) is (fast and limits == "default")
        add(span, {"celery.outcome": "succeeded"}, set_unchecked)
        span.end()
        both.append(client)
    ours, stock = both
    assert timeless(ours.starts) == timeless(stock.starts)
    assert timeless(ours.ends) == timeless(stock.ends)
    assert limits != "default" or ours.ends[0][ATTRIBUTES] == {
        "a": "long enough",
        "b": 2,
        "celery.outcome": "succeeded",
    }


def test_attributes_are_taken_as_long_as_nobody_has_looked() -> None:
    """Afterwards they go the SDK's way; and none after the end."""
    client = RecordingClient()
    tracer = tracer_of(provider_for(client))
    assert isinstance(tracer, FastSpanTracer)
    nobody = trace.INVALID_SPAN_CONTEXT
    span = tracer.start_described("x", None, nobody, SpanKind.CONSUMER, lambda: {"a": 1}, None)
    assert isinstance(span, FastSpan)
    assert span.try_set_attributes({"b": 2})
    assert isinstance(span, ReadableSpan)
    assert dict(span.attributes or {}) == {"a": 1, "b": 2}
    assert not span.try_set_attributes({"c": 3})
    span.end()
    assert not span.try_set_attributes({"d": 4})
    assert client.ends[0][ATTRIBUTES] == {"a": 1, "b": 2}


@pytest.mark.parametrize("days", [-3, 3])
def test_a_clock_that_is_set_makes_no_span_of_days(
    monkeypatch: pytest.MonkeyPatch, days: int
) -> None:
    """The time server sets my clock while a span is open: the span lasts as long as it lasted."""
    wall, ahead = time.time_ns, 0
    monkeypatch.setattr("time.time_ns", lambda: wall() + ahead)
    client = RecordingClient()
    tracer = tracer_of(provider_for(client))
    span = tracer.start_span("long")
    completed = tracer.start_span("completed")
    assert cast("Span", completed).attributes == {}  # from now on it is one of the SDK's
    ahead = days * 86_400 * 10**9
    span.add_event("event")
    span.end()
    completed.end()
    later = tracer.start_span("later")
    later.end()
    for row in client.ends:
        assert 0 <= row[END_NS] - row[START_NS] < 60 * 10**9
    first, _, last = client.ends
    assert first[START_NS] <= first[EVENTS][0][1] <= first[END_NS]
    assert abs(last[START_NS] - first[START_NS] - ahead) < 60 * 10**9


def test_a_span_that_the_caller_has_timed_ends_by_the_wall_clock() -> None:
    """I say when a span began, minutes ago: it ends now, or when I say."""
    client = RecordingClient()
    tracer = tracer_of(provider_for(client))
    now = time.time_ns()
    tracer.start_span("ends now", start_time=now - 300 * 10**9).end()
    tracer.start_span("ends then", start_time=1_000).end(2_000)
    one, other = client.ends
    assert one[START_NS] == now - 300 * 10**9
    assert now <= one[END_NS] < now + 60 * 10**9
    assert (other[START_NS], other[END_NS]) == (1_000, 2_000)
