"""What is published in `with taskobs.untraced():`."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import pytest
import sentry_sdk
from celery import Celery, Task, chain, group
from opentelemetry import trace
from opentelemetry.sdk.trace.sampling import ALWAYS_ON, DEFAULT_ON, Sampler

import taskobs
from taskobs.sentry.pipeline import SentryPipeline
from tests.support.messages import Message, run_message, sampled, sent_messages, trace_id
from tests.support.recording import Recorder, context_of, instrumented
from tests.support.sentry import Settings, clear_isolation_scope, user_init

Messages = list[Message]


@pytest.fixture
def sent() -> Generator[Messages]:
    """Give the headers of all messages that are sent while the test runs."""
    with sent_messages() as messages:
        yield messages


@pytest.mark.parametrize("sampler", [DEFAULT_ON, ALWAYS_ON], ids=["default", "always on"])
def test_a_publish_in_the_block_is_no_span(app: Celery, sent: Messages, sampler: Sampler) -> None:
    """The one call is not traced, and those around it are."""
    recorder = Recorder()
    with instrumented(recorder, sampler=sampler):
        app.send_task("before")
        with taskobs.untraced():
            app.send_task("in")
        app.send_task("after")
    assert recorder.names == ["publish before", "publish after"]
    assert [sampled(one) for one in sent] == [True, False, True]
    assert len({trace_id(one) for one in sent}) == 3


def test_its_run_and_what_that_publishes_follow(
    app: Celery, spans: Recorder, sent: Messages
) -> None:
    """Nothing of what comes of the call is traced: it is one trace, and that is not sampled."""

    @app.task(name="outer")
    def outer() -> None:
        app.send_task("inner")

    with taskobs.untraced():
        app.send_task("outer")
    run_message(app, "outer", sent[0])
    assert spans.names == []
    assert [sampled(one) for one in sent] == [False, False]
    assert len({trace_id(one) for one in sent}) == 1


def test_within_a_span_it_stays_in_its_trace(app: Celery, spans: Recorder, sent: Messages) -> None:
    """Log lines and errors of what my request has called have its trace id."""
    with trace.use_span(trace.NonRecordingSpan(above())), taskobs.untraced():
        app.send_task("in")
    assert trace_id(sent[0]) == above().trace_id
    assert not sampled(sent[0])
    assert spans.names == []


def above() -> trace.SpanContext:
    return trace.SpanContext(7, 8, is_remote=False, trace_flags=trace.TraceFlags(3))


def test_the_block_ends_with_an_exception_too(app: Celery, spans: Recorder) -> None:
    with pytest.raises(ValueError, match="mine"), taskobs.untraced():
        raise ValueError("mine")
    app.send_task("after")
    assert spans.names == ["publish after"]


def test_blocks_nest_and_decorate(app: Celery, spans: Recorder) -> None:
    @taskobs.untraced()
    def polls() -> None:
        with taskobs.untraced():
            app.send_task("in")
        app.send_task("in")

    polls()
    polls()
    assert spans.names == []


def test_canvas_and_eager_runs_are_not_traced(app: Celery, spans: Recorder) -> None:
    """A group, a chain and an eager task in the block: no span of any."""
    task = app.task(name="add")(nothing)
    with taskobs.untraced():
        group(task.s(), task.s()).apply_async()
        chain(task.si(), task.si()).apply_async()
        task.apply()
    assert spans.names == []


def nothing() -> None: ...


def test_a_retry_in_the_block_is_not_traced(app: Celery, spans: Recorder, sent: Messages) -> None:
    """My task polls by retrying: the attempts that follow are not traced."""

    @app.task(name="poll", bind=True, max_retries=None)
    def poll(self: Task[Any, Any]) -> None:
        with taskobs.untraced():
            raise self.retry(countdown=0)

    app.send_task("poll")
    run_message(app, "poll", sent[0])
    run_message(app, "poll", sent[1], retries=1)
    assert spans.names == ["publish poll", "run poll"]
    assert [sampled(one) for one in sent] == [True, False, False]
    assert {trace_id(one) for one in sent} == {context_of(spans.spans[0]).trace_id}


def test_the_trace_that_sentry_has_for_a_request_is_kept(app: Celery, sent: Messages) -> None:
    """Without spans of my request, its events and those of the task are one trace."""
    user_init()
    pipeline = SentryPipeline.start(Settings())
    try:
        with instrumented(Recorder()), sentry_sdk.isolation_scope() as scope:
            scope.set_new_propagation_context()
            of_sentry = str(sentry_sdk.get_traceparent())
            with taskobs.untraced():
                app.send_task("in")
    finally:
        pipeline.close(1.0)
        sentry_sdk.get_global_scope().set_client(None)
        clear_isolation_scope()
    assert f"{trace_id(sent[0]):032x}" == of_sentry[:32]
    assert not sampled(sent[0])


def test_without_init_it_does_no_harm() -> None:
    with taskobs.untraced():
        pass
    assert not trace.get_current_span().get_span_context().is_valid
