"""With ``keep``, runs that are not sampled are recorded in a worker, and held until they end."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any, cast

import pytest
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.sampling import (
    ALWAYS_OFF,
    DEFAULT_OFF,
    DEFAULT_ON,
    ParentBasedTraceIdRatio,
    Sampler,
    TraceIdRatioBased,
)
from opentelemetry.trace import Link, SpanContext, SpanKind, TraceFlags

from taskobs import semconv
from taskobs.config.task_rules import TaskRules
from taskobs.internal.guard import Guard
from taskobs.observers.deferred_attributes import DeferredAttributes
from taskobs.otel.fast_provider import FastSpanProvider
from taskobs.otel.fast_spans import FastSpan
from taskobs.otel.held import processors
from taskobs.otel.held.processors import HoldingProcessor, HoldingRelayProcessor
from taskobs.otel.held.sampler import HoldingSampler
from taskobs.otel.task_tracers import TaskTracers
from taskobs.protocol import frames
from taskobs.protocol.frames import FrameError
from taskobs.protocol.held_spans.marks import Mark, mark_of
from taskobs.protocol.held_spans.rules import KeepRules
from taskobs.protocol.span_encoder import NAME, split
from taskobs.relay_client.client import RelayClient
from tests.support.recording import Recorder

RUN = "run shop.pay"
UNSAMPLED = SpanContext(0xABC, 0xDEF, is_remote=True, trace_flags=TraceFlags(0))
SAMPLED = SpanContext(0xABC, 0xDEF, is_remote=True, trace_flags=TraceFlags(1))
LINKS = [Link(SAMPLED)]


class RecordingClient:
    """Takes the place of the relay's client, and keeps what it receives."""

    def __init__(self) -> None:
        self.unavailable = False
        self.starts: list[bytes] = []
        self.ends: list[bytes] = []
        self.left: list[bytes] = []

    def started(self, key: bytes, payload: bytes) -> None:
        assert payload.startswith(key)
        self.starts.append(split(payload)[1])

    def ended(self, key: bytes, payload: bytes) -> None:
        assert payload.startswith(key)
        self.ends.append(split(payload)[1])

    def undelivered(self, *_: object) -> list[bytes]:
        left, self.left = self.left, []
        return left

    def hello(self) -> dict[str, object]:
        return {"resource": {"service.name": "shop"}, "schema_url": ""}


class World:
    """A provider with ``keep``, whose spans go to a relay or are held here."""

    def __init__(
        self, *, relay: bool, fast: bool, sampler: Sampler = DEFAULT_ON, on: bool = True
    ) -> None:
        self.client, self.exported = RecordingClient(), Recorder()
        self.provider = FastSpanProvider(sampler=HoldingSampler(sampler), shutdown_on_exit=False)
        self.sampler = cast("HoldingSampler", self.provider.sampler)
        self.direct = HoldingProcessor(self.exported, self.sampler, KeepRules(failed=True))
        self.relay = HoldingRelayProcessor(
            cast("RelayClient", self.client), self.direct, self.sampler, Guard(strict=True)
        )
        self.provider.add_span_processor(self.relay if relay else self.direct)
        if relay and fast:
            self.provider.route_to(self.relay)
        self.tracer = self.provider.get_tracer("shop")
        if on:
            self.sampler.turn_on()

    def run(self, parent: SpanContext | None = UNSAMPLED, **more: Any) -> trace.Span:
        """Start a run."""
        context = Context()
        if parent is not None:
            context = trace.set_span_in_context(trace.NonRecordingSpan(parent), context)
        return self.tracer.start_span(RUN, context, SpanKind.CONSUMER, **more)

    def inside(self, above: trace.Span, name: str = "query", **more: Any) -> trace.Span:
        """Start a span below another one."""
        return self.tracer.start_span(name, trace.set_span_in_context(above, Context()), **more)


@pytest.fixture(params=[True, False], ids=["fast", "the SDK's own"])
def world(request: pytest.FixtureRequest) -> Generator[World]:
    world = World(relay=True, fast=request.param)
    yield world
    world.direct.shutdown()


def marks(payloads: list[bytes]) -> list[Mark | None]:
    return [mark_of(packed) for packed in payloads]


def id_of(span: trace.Span) -> bytes:
    return span.get_span_context().span_id.to_bytes(8, "big")


def ends(*spans: trace.Span) -> None:
    for span in spans:
        span.end()


def test_a_run_and_what_is_inside_are_marked(world: World) -> None:
    """The relay is told of each span of a run that is not sampled, and which run it is in."""
    run = world.run()
    query = world.inside(run)
    deeper = world.inside(query)
    ends(deeper, query, run)
    mine = id_of(run)
    inner = Mark(is_run=False, run=mine)
    assert marks(world.client.starts) == [Mark(is_run=True, run=mine), inner, inner]
    assert marks(world.client.ends) == [inner, inner, Mark(is_run=True, run=mine)]


def test_spans_of_every_making_are_marked(world: World) -> None:
    """A span with links, one that other code looks into, one too long: all are in their run."""
    run = world.run(links=LINKS)
    linked = world.inside(run, links=LINKS)
    looked_at = world.inside(linked)
    assert isinstance(looked_at, ReadableSpan)
    assert looked_at.events == ()
    long = world.inside(looked_at, attributes={"long": "x" * 2_000_000})
    half = world.inside(long, attributes={"text": "\ud800"})
    ends(half, long, looked_at, linked, run)
    inner = Mark(is_run=False, run=id_of(run))
    assert marks(world.client.ends) == [inner] * 4 + [Mark(is_run=True, run=id_of(run))]
    assert marks(world.client.starts) == marks(world.client.ends)[::-1]


def test_the_trace_stays_unsampled(world: World) -> None:
    """What a run publishes says that its trace is not sampled, as without ``keep``."""
    run = world.run()
    publish = world.inside(run, "publish shop.pay", kind=SpanKind.PRODUCER)
    for span in (run, publish):
        assert span.is_recording()
        assert not span.get_span_context().trace_flags.sampled
    ends(publish, run)


def test_a_run_inside_another_is_held_with_it(world: World) -> None:
    """My task runs another one eagerly: the two are one to the relay."""
    outer = world.run()
    inner = world.inside(outer, RUN, kind=SpanKind.CONSUMER)
    ends(inner, outer)
    both = Mark(is_run=True, run=id_of(outer))
    assert marks(world.client.ends) == [both, both]


def test_outside_of_runs_nothing_is_recorded(world: World) -> None:
    """A span of the worker's own, or of a consumer of the app's, costs what it did."""
    unsampled = trace.set_span_in_context(trace.NonRecordingSpan(UNSAMPLED), Context())
    for kind, name in ((SpanKind.INTERNAL, "run x"), (SpanKind.CONSUMER, "receive x")):
        span = world.tracer.start_span(name, unsampled, kind)
        assert not span.is_recording()
        assert not world.inside(span).is_recording()
    assert world.client.starts == []


def test_sampled_traces_are_as_ever(world: World) -> None:
    """A run that is sampled has no mark."""
    run = world.run(SAMPLED)
    query = world.inside(run)
    ends(query, run)
    assert marks(world.client.ends) == [None, None]


@pytest.mark.parametrize("fast", [True, False])
def test_before_this_is_a_worker_nothing_is_held(*, fast: bool) -> None:
    """A web process with the same settings records nothing that is not sampled."""
    world = World(relay=True, fast=fast, on=False)
    run = world.run()
    assert not run.is_recording()
    assert not world.inside(run).is_recording()
    world.direct.shutdown()


@pytest.mark.parametrize("fast", [True, False])
def test_a_rule_decides_and_failures_are_kept(*, fast: bool) -> None:
    """A rule gives a task a share of its own, 0 too: what that leaves out is held."""
    world = World(relay=True, fast=fast, on=False)
    tracers = TaskTracers(world.tracer, TaskRules({"shop.*": {"sample_rate": 0.0}}))
    assert tracers.by_task is not None
    tracer = tracers.by_task["shop.pay"].tracer
    assert tracer is not world.tracer
    assert not tracer.start_span(RUN, Context(), SpanKind.CONSUMER).is_recording()
    world.sampler.turn_on()
    run = tracer.start_span(RUN, Context(), SpanKind.CONSUMER)
    ends(world.inside(run), run)
    mine = id_of(run)
    assert marks(world.client.ends) == [Mark(is_run=False, run=mine), Mark(is_run=True, run=mine)]
    tracers.remove()
    world.direct.shutdown()


@pytest.mark.parametrize(
    "sampler", [ALWAYS_OFF, DEFAULT_OFF, TraceIdRatioBased(0.0), ParentBasedTraceIdRatio(0.0)]
)
@pytest.mark.parametrize("parent", [None, UNSAMPLED])
@pytest.mark.parametrize("fast", [True, False])
def test_whatever_sampler_decides(sampler: Sampler, parent: SpanContext, *, fast: bool) -> None:
    """I choose any sampler by its variable: what it leaves out is held."""
    world = World(relay=True, fast=fast, sampler=sampler)
    run = world.run(parent)
    ends(world.inside(run), run)
    assert [mark is not None for mark in marks(world.client.ends)] == [True, True]
    world.direct.shutdown()


def test_fast_spans_stay_fast() -> None:
    """A held span is a fast span, and is described after the sampler's decision."""
    world = World(relay=True, fast=True)
    if not hasattr(world.tracer, "start_described"):
        pytest.skip("this release of the SDK makes its spans in another way")
    run = world.run()
    query = world.inside(run)
    assert (type(run), type(query)) == (FastSpan, FastSpan)
    deferred = DeferredAttributes.install(world.tracer)
    assert deferred is not None
    deferred.remove()
    ends(query, run)
    world.direct.shutdown()


# Without a relay.


def fails(run: trace.Span) -> None:
    run.set_attribute(semconv.CELERY_OUTCOME, "failed")


def succeeds(run: trace.Span) -> None:
    run.set_attribute(semconv.CELERY_OUTCOME, "succeeded")


@pytest.mark.parametrize(("end", "kept"), [(fails, ["query", RUN]), (succeeds, [])])
def test_without_a_relay_the_process_holds(
    end: Callable[[trace.Span], None], kept: list[str]
) -> None:
    """I switch the relay off: a run that failed is exported whole all the same, as sampled."""
    world = World(relay=False, fast=False)
    run = world.run()
    world.inside(run).end()
    assert world.exported.spans == []
    end(run)
    run.end()
    assert sorted(span.name for span in world.exported.spans) == kept
    assert all(span.context and span.context.trace_flags.sampled for span in world.exported.spans)
    world.direct.shutdown()


def test_sampled_spans_are_exported_by_the_process_at_once() -> None:
    world = World(relay=False, fast=False)
    ends(world.run(SAMPLED))
    assert [span.name for span in world.exported.spans] == [RUN]
    world.direct.shutdown()


def test_too_many_spans_are_said_once(caplog: pytest.LogCaptureFixture) -> None:
    """My run makes more spans than a process holds: the last are kept, and one line says so."""
    world = World(relay=False, fast=False)
    run = world.run()
    for number in range(1_500):
        world.inside(run, f"query {number}").end()
    fails(run)
    run.end()
    names = [span.name for span in world.exported.spans]
    assert {"query 1499", RUN} <= {*names}
    assert "query 0" not in names
    assert 800 < len(names) <= 1_001
    assert len(caplog.records) == 1
    assert "their oldest are dropped" in caplog.text
    world.direct.shutdown()


def test_a_relay_that_is_given_up_leaves_its_spans_to_the_process(world: World) -> None:
    """There is no relay any more in the middle of a run: what it did not read is still whole."""
    run = world.run()
    query, later = world.inside(run), world.inside(run, "later")
    query.end()
    key = query.get_span_context()
    packed = world.client.ends[0]
    world.client.left = [key.trace_id.to_bytes(16, "big") + id_of(query) + packed]
    world.client.unavailable = True
    fails(run)
    ends(later, run)
    assert sorted(span.name for span in world.exported.spans) == ["later", "query", RUN]


def test_names_are_those_of_the_spans(world: World) -> None:
    """A mark changes nothing else of a span."""
    run = world.run(attributes={"a": 1})
    run.end()
    assert frames.unpack(world.client.ends[0])[NAME] == RUN


def test_a_failure_of_the_export_reaches_no_task(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """What is kept can't be decoded: my task goes on, and the log has it."""
    world = World(relay=False, fast=False)

    def broken(_: bytes) -> bytes:
        raise FrameError("no packed span")

    monkeypatch.setattr(processors, "sampled", broken)
    run = world.run()
    fails(run)
    run.end()
    assert world.exported.spans == []
    assert "no packed span" in caplog.text
    world.direct.shutdown()
