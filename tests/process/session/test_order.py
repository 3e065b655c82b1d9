"""What the app sets up, before `init()` or after it."""

from __future__ import annotations

import logging
from collections.abc import Generator
from typing import Any

import pytest
import sentry_sdk
from celery import Celery, signals
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider

import taskobs
from taskobs.testing.receiver import Receiver
from tests.live.shop import trace_of
from tests.support.recording import Recorder, context_of, global_provider, tracer_provider
from tests.support.sentry import Kept, clear_isolation_scope, user_init
from tests.unit.session.test_session import with_task


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> Generator[None]:
    """Leave no provider and no client to the next test; send all, however busy the machine is."""
    monkeypatch.setenv("TASKOBS_SHUTDOWN_TIMEOUT", "60")
    with global_provider():
        yield
    sentry_sdk.get_client().close(timeout=0)
    sentry_sdk.get_global_scope().set_client(None)
    clear_isolation_scope()


def with_failing(app: Celery, name: str = "fail") -> Any:
    @app.task(name=name)
    def fail() -> None:
        raise ValueError("no funds")

    return fail


def task_events(kept: Kept) -> list[tuple[object, object]]:
    """Give the task and the span of each event."""
    return [
        (event["tags"].get("celery.task"), event["contexts"]["trace"]["span_id"])
        for event in kept.events
    ]


def test_a_factory_that_sets_up_sentry_and_a_provider_later(app: Celery) -> None:
    """I call `init()` with nothing configured, then set up Sentry and a provider: all is seen."""
    add, fail = with_task(app), with_failing(app)
    recorder = Recorder()
    with taskobs.init(strict=True):
        add.delay(1, 2)
        kept = user_init()
        trace.set_tracer_provider(tracer_provider(recorder))
        add.delay(1, 2)
        fail.apply()
    assert recorder.names == ["publish add", "run fail"]
    run = recorder.one("run fail")
    assert task_events(kept) == [("fail", f"{context_of(run).span_id:016x}")]


def test_a_dsn_of_ours_and_a_provider_of_mine_later(app: Celery, receiver: Receiver) -> None:
    """I give a DSN alone and set a provider later: there are spans, too."""
    recorder = Recorder()
    with taskobs.init(sentry_dsn=receiver.dsn, strict=True):
        trace.set_tracer_provider(tracer_provider(recorder))
        with_failing(app).apply()
    [event] = receiver.events
    run = recorder.one("run fail")
    assert trace_of(event)[1] == f"{context_of(run).span_id:016x}"


def test_a_provider_of_mine_wins_before_the_first_span(
    app: Celery, receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    """I set my provider after `init()` with an endpoint: all of it applies, silently."""
    recorder = Recorder()
    mine = tracer_provider(recorder)
    with (
        caplog.at_level(logging.WARNING),
        taskobs.init(otlp_endpoint=receiver.endpoint, strict=True),
    ):
        early = trace.get_tracer("early")
        added = Recorder()
        provider = trace.get_tracer_provider()
        assert isinstance(provider, TracerProvider)
        provider.add_span_processor(added)
        trace.set_tracer_provider(mine)
        assert trace.get_tracer_provider() is mine
        with early.start_as_current_span("of an early tracer"):
            with_task(app).delay(1, 2)
        provider.get_tracer("late").start_span("of the former provider").end()
    names = ["of an early tracer", "publish add", "of the former provider"]
    assert recorder.names == names
    assert added.names == names, "a processor that I had added goes with it"
    assert recorder.traces == 2
    assert not caplog.records
    assert {request.path for request in receiver.requests} <= {"/v1/metrics"}


def test_a_provider_of_mine_is_refused_later_with_the_cure(
    app: Celery, receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    """I set my provider after the first span: one warning says what to do."""
    recorder = Recorder()
    add = with_task(app)
    with (
        caplog.at_level(logging.WARNING),
        taskobs.init(otlp_endpoint=receiver.endpoint, strict=True),
    ):
        add.delay(1, 2)
        for _ in range(2):
            trace.set_tracer_provider(tracer_provider(recorder))
        add.delay(1, 2)
    [record] = caplog.records
    assert "before taskobs.init()" in record.message
    assert [span.name for span in receiver.spans] == ["publish add"] * 2
    assert not recorder.names


def test_an_unsampled_span_has_begun_too(receiver: Receiver) -> None:
    """My first span is not sampled: a provider that comes later is refused all the same."""
    with taskobs.init(otlp_endpoint=receiver.endpoint, sample_rate=0.0, strict=True):
        ours = trace.get_tracer_provider()
        trace.get_tracer("t").start_span("not kept").end()
        trace.set_tracer_provider(tracer_provider(Recorder()))
        assert trace.get_tracer_provider() is ours


@pytest.mark.parametrize("endpoint", [True, False])
def test_sentry_later_reports_the_next_failed_run(
    app: Celery,
    receiver: Receiver,
    endpoint: bool,  # noqa: FBT001  # a parameter of the test
) -> None:
    """I initialise Sentry after `init()` in a script: the failed eager run is tagged."""
    fail = with_failing(app)
    with taskobs.init(otlp_endpoint=receiver.endpoint if endpoint else None, strict=True):
        kept = user_init()
        fail.apply()
    assert [task for task, _ in task_events(kept)] == ["fail"]


def test_sentry_in_a_receiver_of_task_prerun(app: Celery) -> None:
    """I initialise Sentry at the start of the first run: its failure is reported, once."""
    kept: list[Kept] = []

    def set_up(**_: object) -> None:
        if not kept:
            kept.append(user_init())

    fail = with_failing(app)
    signals.task_prerun.connect(set_up, weak=False)
    try:
        with taskobs.init(strict=True):
            for _ in range(2):
                fail.apply()
    finally:
        signals.task_prerun.disconnect(set_up)
    assert [task for task, _ in task_events(kept[0])] == ["fail", "fail"]


def test_a_provider_in_a_receiver_of_task_prerun(app: Celery) -> None:
    """I set my provider at the start of the first run: that run has its span, too."""
    recorder = Recorder()

    def set_up(**_: object) -> None:
        trace.set_tracer_provider(tracer_provider(recorder))
        signals.task_prerun.disconnect(set_up)

    add = with_task(app)
    signals.task_prerun.connect(set_up, weak=False)
    with taskobs.init(strict=True):
        for _ in range(2):
            add.apply((1, 2))
    assert recorder.names == ["run add", "run add"]
    assert recorder.traces == 2


def test_sentry_within_the_run_that_fails(app: Celery) -> None:
    """My task initialises Sentry itself and fails: its event is tagged."""
    kept: list[Kept] = []

    @app.task(name="late")
    def late_task() -> None:
        kept.append(user_init())
        raise ValueError("no funds")

    with taskobs.init(strict=True):
        late_task.apply()
    assert [task for task, _ in task_events(kept[0])] == ["late"]


def test_init_within_a_receiver_of_task_prerun(app: Celery, receiver: Receiver) -> None:
    """I call `init()` itself at the start of the first run: that run is seen."""

    def set_up(**_: object) -> None:
        taskobs.init(otlp_endpoint=receiver.endpoint, sentry_dsn=receiver.dsn, strict=True)

    signals.task_prerun.connect(set_up, weak=False)
    try:
        with_failing(app).apply()
    finally:
        signals.task_prerun.disconnect(set_up)
        taskobs.init().close()
    [run] = receiver.spans
    [event] = receiver.events
    assert (run.name, run.status) == ("run fail", "error")
    assert trace_of(event)[1] == run.span_id


def test_what_is_set_up_later_is_left_alone_after_close(app: Celery) -> None:
    """After `close()` nothing that I set up is touched any more."""
    with taskobs.init(strict=True):
        pass
    kept, recorder = user_init(), Recorder()
    trace.set_tracer_provider(tracer_provider(recorder))
    with_failing(app).apply()
    assert not recorder.names
    assert not [event for event in kept.events if "celery.task" in (event.get("tags") or {})]
