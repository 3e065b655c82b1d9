"""A publish in a request without a span is in the trace that Sentry has for the request."""

from __future__ import annotations

import random
import threading
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
import sentry_sdk
from opentelemetry.metrics import NoOpMeterProvider
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.sampling import (
    ALWAYS_ON,
    Decision,
    ParentBased,
    ParentBasedTraceIdRatio,
    Sampler,
    SamplingResult,
    TraceIdRatioBased,
)

from taskobs.model import Canvas, Publish, Run, Schedule
from taskobs.observers import outer_trace
from taskobs.observers.spans import SpanObserver
from taskobs.observers.task_tracer import task_tracer
from taskobs.sentry import _compat
from taskobs.sentry.pipeline import SentryPipeline
from tests.support.recording import Recorder, context_of, tracer_provider
from tests.support.sentry import SPAN_ID, TRACE_ID, Settings, clear_isolation_scope, user_init

HEADER = {"sentry-trace": f"{TRACE_ID}-{SPAN_ID}"}


@pytest.fixture(autouse=True)
def pipeline() -> Iterator[SentryPipeline]:
    """Start a pipeline over a client of the app's."""
    user_init()
    started = SentryPipeline.start(Settings())
    yield started
    started.close(1.0)
    sentry_sdk.get_global_scope().set_client(None)
    clear_isolation_scope()


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


def an_observer(recorder: Recorder, sampler: Sampler | None = None) -> SpanObserver:
    tracer = tracer_provider(recorder, sampler).get_tracer("test")
    histogram = NoOpMeterProvider().get_meter("test").create_histogram("runtime")
    return SpanObserver(task_tracer(tracer), histogram)


def publish(observer: SpanObserver, **fields: Any) -> None:
    with observer.publish(Publish(task="add", name="add", **fields)):
        pass


def in_request(observer: SpanObserver) -> str:
    """Publish in a scope as integrations of web frameworks make it; give its trace in Sentry."""
    with sentry_sdk.isolation_scope() as scope:
        scope.set_new_propagation_context()
        publish(observer)
        return str(sentry_sdk.get_traceparent())


def ids(span: ReadableSpan) -> tuple[str, str]:
    """Give the trace id and the parent's span id."""
    parent = f"{span.parent.span_id:016x}" if span.parent else ""
    return f"{context_of(span).trace_id:032x}", parent


def test_a_publish_in_a_request_joins_its_trace(recorder: Recorder) -> None:
    """Two requests publish: each task is in the trace of its request's errors."""
    observer = an_observer(recorder)
    traces = [in_request(observer) for _ in range(2)]
    assert ["-".join(ids(span)) for span in recorder.spans] == traces


def test_a_publish_outside_of_requests_is_a_root(recorder: Recorder) -> None:
    """What a script or a consumer publishes in all of its life is not one trace."""
    observer = an_observer(recorder)
    publish(observer)
    publish(observer)
    assert recorder.traces == 2
    assert {ids(span)[1] for span in recorder.spans} == {""}


def test_a_thread_with_a_scope_of_its_own_is_no_request(recorder: Recorder) -> None:
    """A thread that consumes from elsewhere and publishes for ever does not make one trace."""
    observer = an_observer(recorder)

    def work() -> None:
        with sentry_sdk.isolation_scope() as scope:
            scope.set_new_propagation_context()
            publish(observer)
            publish(observer)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert recorder.traces == 2


def test_a_request_in_a_thread_is_known_by_its_name(
    recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Servers with threads: Sentry's integrations of web frameworks name the request's scope."""

    def named(_: object) -> str:
        return "wsgi"

    monkeypatch.setattr(_compat, "scope_name", named)
    found: list[str] = []
    thread = threading.Thread(target=lambda: found.append(in_request(an_observer(recorder))))
    thread.start()
    thread.join()
    assert ["-".join(ids(span)) for span in recorder.spans] == found


def test_a_trace_that_came_with_a_request_is_joined(recorder: Recorder) -> None:
    """The browser's trace goes on in what the request publishes."""
    observer = an_observer(recorder)

    def work() -> None:
        with sentry_sdk.isolation_scope():
            sentry_sdk.continue_trace(HEADER)
            publish(observer)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert ids(recorder.one("publish add"))[0] == TRACE_ID


def test_a_group_in_a_request_joins_its_trace(recorder: Recorder) -> None:
    """The parts of a group are in the trace of the request that publishes it."""
    observer = an_observer(recorder)
    with sentry_sdk.isolation_scope() as scope:
        scope.set_new_propagation_context()
        with observer.canvas(Canvas("celery.group", {})):
            publish(observer)
        trace_id = str(sentry_sdk.get_traceparent())[:32]
    assert {ids(span)[0] for span in recorder.spans} == {trace_id}


def test_a_tick_of_beat_joins_nothing(recorder: Recorder) -> None:
    """An entry that is due is a trace of its own, whatever beat's process has in Sentry."""
    observer = an_observer(recorder)
    with sentry_sdk.isolation_scope() as scope:
        scope.set_new_propagation_context()
        publish(observer, schedule=Schedule(entry="hourly"))
        publish(observer, schedule=Schedule(entry="hourly"))
    assert recorder.traces == 2


@pytest.mark.parametrize("header", [HEADER["sentry-trace"], f"{TRACE_ID}-{SPAN_ID}-0"])
def test_a_run_whose_producer_has_no_spans_is_in_its_trace(recorder: Recorder, header: str) -> None:
    """My web app has Sentry alone: its errors and the spans of its tasks are one trace.

    Whether Sentry records its own spans of it says nothing of these.
    """
    run = Run(task="add", name="add", task_id="id-1", headers={"sentry-trace": header})
    with an_observer(recorder).run(run):
        pass
    assert ids(recorder.one("run add")) == (TRACE_ID, SPAN_ID)
    assert run.span is not None
    assert run.span.trace_id == TRACE_ID


def test_opentelemetrys_header_goes_first(recorder: Recorder) -> None:
    """A message with both is a child of the publish."""
    headers = {**HEADER, "traceparent": f"00-{'1' * 32}-{'2' * 16}-01"}
    with an_observer(recorder).run(Run(task="add", name="add", task_id="id-1", headers=headers)):
        pass
    assert ids(recorder.one("run add")) == ("1" * 32, "2" * 16)


def test_the_sample_rate_holds_for_traces_of_sentrys(recorder: Recorder) -> None:
    """Half of my traces are kept, and half of those that begin in Sentry, whose ids are UUIDs."""
    observer = an_observer(recorder, ParentBasedTraceIdRatio(0.5))
    number = random.Random(7)  # noqa: S311  # the same in each run of the test
    for _ in range(400):
        trace_id = uuid.UUID(int=number.getrandbits(128), version=4).hex
        for _attempt in range(2):
            headers = {"sentry-trace": f"{trace_id}-{SPAN_ID}"}
            with observer.run(Run(task="add", name="add", task_id="id-1", headers=headers)):
                pass
    assert 150 < recorder.traces < 250
    assert len(recorder.spans) == 2 * recorder.traces


class Own(Sampler):
    """A sampler of the app's own."""

    def should_sample(self, *_: object, **__: object) -> SamplingResult:
        return SamplingResult(Decision.RECORD_AND_SAMPLE)

    def get_description(self) -> str:
        return "Own"


@pytest.mark.parametrize(
    ("sampler", "joins"),
    [
        (ALWAYS_ON, True),
        (ParentBased(Own()), True),
        (TraceIdRatioBased(1.0), False),
        (Own(), False),
    ],
)
def test_a_sampler_that_does_not_heed_parents_is_not_misled(
    recorder: Recorder, sampler: Sampler, *, joins: bool
) -> None:
    """A sampler that decides by the trace's id, or by rules of my own, gets traces as ever."""
    in_request(an_observer(recorder, sampler))
    assert (recorder.one("publish add").parent is not None) is joins


def test_nothing_is_asked_after_the_session(pipeline: SentryPipeline) -> None:
    """After `close()` publishes are as before."""
    assert outer_trace.sources
    pipeline.close(1.0)
    assert not outer_trace.sources
