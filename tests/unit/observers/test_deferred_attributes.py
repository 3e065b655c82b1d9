"""Attributes that spans get when it is known that they are recorded."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from celery import Celery
from opentelemetry.context import Context
from opentelemetry.metrics import NoOpMeterProvider
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Span, SpanLimits, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.sampling import (
    ALWAYS_OFF,
    ALWAYS_ON,
    Decision,
    ParentBased,
    ParentBasedTraceIdRatio,
    Sampler,
    SamplingResult,
    TraceIdRatioBased,
)
from opentelemetry.trace import INVALID_SPAN_CONTEXT as NOBODY
from opentelemetry.trace import SpanKind

from taskobs.observers import deferred_attributes
from taskobs.observers.deferred_attributes import DeferredAttributes
from taskobs.otel._sdk_compat import set_unchecked
from taskobs.otel.instrumentor import TaskInstrumentor
from tests.support.recording import Recorder


class ByTask(Sampler):
    """Samples one task, as its attribute says."""

    def should_sample(self, *args: Any, **named: Any) -> SamplingResult:
        attributes: dict[str, Any] = (named["attributes"] if named else args[4]) or {}
        wanted = attributes.get("celery.task_name") == "wanted"
        return SamplingResult(Decision.RECORD_AND_SAMPLE if wanted else Decision.DROP, attributes)

    def get_description(self) -> str:
        return "by task"


class Early(SpanProcessor):
    """Keeps what a span says when it starts."""

    def __init__(self, also: Callable[[], object] = lambda: None) -> None:
        self.seen: list[dict[str, Any]] = []
        self._also = also

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:  # noqa: ARG002
        self.seen.append(dict(span.attributes or {}))
        self._also()


def provider(**options: Any) -> TracerProvider:
    return TracerProvider(resource=Resource({}), shutdown_on_exit=False, **options)


def observed(app: Celery, name: str, made: TracerProvider) -> None:
    instrumentor = TaskInstrumentor()
    instrumentor.instrument(
        skip_dep_check=True, tracer_provider=made, meter_provider=NoOpMeterProvider()
    )
    try:
        app.tasks[name].apply()
    finally:
        instrumentor.uninstrument()


@pytest.fixture
def wanted(app: Celery) -> str:
    @app.task(name="wanted")
    def body() -> None: ...

    return str(body.name)


def test_my_processors_see_a_run_s_attributes_when_it_starts(app: Celery, wanted: str) -> None:
    """A processor of mine that reads a span at its start finds it described."""
    made, early = provider(), Early()
    made.add_span_processor(early)
    observed(app, wanted, made)
    assert [seen["celery.task_name"] for seen in early.seen] == ["wanted"]
    assert early.seen[0]["celery.attempt"] == 1


@pytest.mark.parametrize("wrapped", [False, True])
def test_my_sampler_may_decide_by_attributes(app: Celery, wanted: str, *, wrapped: bool) -> None:
    """A sampler of mine that asks for the task is told it."""
    recorder, sampler = Recorder(), ByTask()
    made = provider(sampler=ParentBased(sampler) if wrapped else sampler)
    made.add_span_processor(recorder)

    @app.task(name="other")
    def other() -> None: ...

    observed(app, wanted, made)
    observed(app, other.name, made)
    assert [span.name for span in recorder.spans] == ["run wanted"]


@pytest.mark.parametrize(
    ("sampler", "installed"),
    [
        (ALWAYS_ON, True),
        (ALWAYS_OFF, True),
        (TraceIdRatioBased(0.5), True),
        (ParentBased(ALWAYS_ON), True),
        (ParentBasedTraceIdRatio(0.5), True),
        (ByTask(), False),
        (ParentBased(ALWAYS_ON, remote_parent_sampled=ByTask()), False),
    ],
)
def test_it_is_for_samplers_that_look_at_no_attribute(sampler: Sampler, *, installed: bool) -> None:
    """With any other sampler, attributes are there before it decides."""
    tracer: Any = provider(sampler=sampler).get_tracer("test")
    before = tracer.span_processor
    found = DeferredAttributes.install(tracer)
    assert (found is not None) is installed
    if found is not None:
        found.remove()
    assert tracer.span_processor is before


def test_what_is_not_recorded_is_not_described() -> None:
    """A span that nobody will see costs no description."""
    found = DeferredAttributes.install(provider(sampler=ALWAYS_OFF).get_tracer("test"))
    assert found is not None
    found.start_span("x", None, NOBODY, SpanKind.CONSUMER, lambda: pytest.fail("it was described"))


def test_the_limits_of_my_provider_are_kept() -> None:
    """However few attributes I allow a span, and however short, it has no more."""
    for limits in (
        SpanLimits(max_span_attributes=2),
        SpanLimits(max_span_attribute_length=3),
        SpanLimits(max_span_attributes=SpanLimits.UNSET),
    ):
        recorder = Recorder()
        made = provider(span_limits=limits)
        made.add_span_processor(recorder)
        tracer = made.get_tracer("test")
        attributes: Any = {"a": "long enough", "b": 2, "c": 3, "d": ("long enough",)}
        found = DeferredAttributes.install(tracer, set_unchecked)
        assert found is not None
        found.start_span("x", None, NOBODY, SpanKind.CONSUMER, lambda: attributes).end()  # noqa: B023  # now
        found.remove()
        tracer.start_span("x", None, SpanKind.CONSUMER, attributes).end()
        ours, stock = recorder.spans
        assert dict(ours.attributes or {}) == dict(stock.attributes or {})
        assert ours.dropped_attributes == stock.dropped_attributes


def test_a_span_that_a_processor_starts_is_another_one() -> None:
    """What a processor of mine does at a span's start stays its own."""
    made, recorder = provider(), Recorder()
    tracer = made.get_tracer("test")
    nested: list[int] = []

    def start_one() -> None:
        if not nested:
            nested.append(1)
            tracer.start_span("inner").end()

    made.add_span_processor(Early(start_one))
    made.add_span_processor(recorder)
    found = DeferredAttributes.install(tracer)
    assert found is not None
    found.start_span("outer", None, NOBODY, SpanKind.CONSUMER, lambda: {"whose": "outer"}).end()
    assert {span.name: dict(span.attributes or {}) for span in recorder.spans} == {
        "inner": {},
        "outer": {"whose": "outer"},
    }
    assert not deferred_attributes._given.get()  # pyright: ignore[reportPrivateUsage]
