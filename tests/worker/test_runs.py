"""What a run tells, on a worker."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any

import celery
import pytest
from celery import Celery
from opentelemetry import trace

from taskobs.model import Run
from taskobs.observers.base import Observer
from taskobs.otel.task_spans import shared_task_signals
from tests.support.recording import (
    Recorder,
    attribute,
    exceptions,
    instrumented,
    links,
    outcome,
    parent_id,
    span_id,
)

Get = Callable[[Any], Any]


def test_retries_are_siblings_under_the_first_publish(
    app: Celery, spans: Recorder, result_of: Get
) -> None:
    """Attempts stand side by side, each linked to the one before, and none is an error."""
    assert result_of(app.tasks["flaky"].delay()) == 3
    spans.wait(*["run flaky"] * 3)
    assert spans.tree() == [
        "publish flaky",
        "  run flaky",
        "  publish flaky",
        "  run flaky",
        "  publish flaky",
        "  run flaky",
    ]
    runs, publishes = spans.named("run flaky"), spans.named("publish flaky")
    assert [outcome(run) for run in runs] == [
        ("UNSET", "retried"),
        ("UNSET", "retried"),
        ("UNSET", "succeeded"),
    ]
    assert [attribute(run, "celery.attempt") for run in runs] == [1, 2, 3]
    assert [exceptions(run) for run in runs] == [["ValueError"], ["ValueError"], []]
    assert [links(run) for run in runs] == [
        [],
        [("retry_of", span_id(runs[0])), ("publish", span_id(publishes[1]))],
        [("retry_of", span_id(runs[1])), ("publish", span_id(publishes[2]))],
    ]


def test_retries_exhausted_end_in_one_error(app: Celery, spans: Recorder, result_of: Get) -> None:
    """When no retry is left, the last attempt is the error."""
    assert isinstance(result_of(app.tasks["flaky"].delay(9)), ValueError)
    spans.wait(*["run flaky"] * 4)
    assert [outcome(run)[0] for run in spans.named("run flaky")] == ["UNSET"] * 3 + ["ERROR"]


def test_retries_within_the_caller_s_span_stay_there(
    app: Celery, spans: Recorder, result_of: Get
) -> None:
    """A trace that my web request began holds all attempts, under its first publish."""
    parent = trace.NonRecordingSpan(
        trace.SpanContext(99, 98, is_remote=True, trace_flags=trace.TraceFlags(1))
    )
    with trace.use_span(parent):
        result = app.tasks["flaky"].delay(1)
    result_of(result)
    spans.wait(*["run flaky"] * 2)
    first = spans.named("publish flaky")[0]
    assert parent_id(first) == 98
    assert [parent_id(run) for run in spans.named("run flaky")] == [span_id(first)] * 2


def test_a_failure(app: Celery, spans: Recorder, result_of: Get) -> None:
    """A task that raises is an ERROR with its exception, once; its publish is fine."""
    result_of(app.tasks["boom"].delay())
    spans.wait("run boom")
    run = spans.one("run boom")
    assert outcome(run) == ("ERROR", "failed")
    assert exceptions(run) == ["KeyError"]
    assert attribute(run, "error.type") == "KeyError"
    assert spans.one("publish boom").status.status_code.name == "UNSET"


def test_ignored(app: Celery, spans: Recorder) -> None:
    """A task that raises Ignore is no error, and says why."""
    app.tasks["ignore"].delay()
    spans.wait("run ignore")
    run = spans.one("run ignore")
    assert outcome(run) == ("UNSET", "ignored")
    assert attribute(run, "celery.reason") == "not now"


def test_rejected_with_an_exception(app: Celery, spans: Recorder) -> None:
    """A task that rejects with an exception that can't be told is rejected all the same."""
    app.tasks["reject"].delay()
    spans.wait("run reject")
    run = spans.one("run reject")
    assert outcome(run) == ("UNSET", "rejected")
    assert attribute(run, "celery.reason") == "Mute"


class Failures(Observer):
    def __init__(self) -> None:
        self.seen: list[tuple[str, str]] = []

    def failed(self, run: Run) -> None:
        self.seen.append((run.task, type(run.exception).__name__))


AFTERWARDS = "succeeded" if celery.VERSION[:2] >= (5, 7) else "failed"
"""What Celery makes of a task whose hook raises when it has succeeded: errbacks fire or not."""


# Celery warns of them too.
@pytest.mark.filterwarnings("ignore:Exception raised outside body:RuntimeWarning")
@pytest.mark.parametrize(
    ("task", "error", "state"),
    [
        ("on_success", "RuntimeError", AFTERWARDS),
        ("after_return", "RuntimeError", AFTERWARDS),
        ("on_failure", "RuntimeError", "failed"),
        ("opaque", "EncodeError", "failed"),
    ],
)
def test_what_celery_only_logs_is_a_failure_once(  # noqa: PLR0917  # pytest names them
    app: Celery, spans: Recorder, result_of: Get, task: str, error: str, state: str
) -> None:
    """A hook that raises, and a result that can't be encoded, are each told once."""
    failures = Failures()
    lifecycle = shared_task_signals()
    lifecycle.attach(failures)
    try:
        app.tasks[task].delay()
        spans.wait("run " + task)
        assert result_of(app.tasks["add"].delay(1, 1)) == 2  # Celery is through with it
    finally:
        lifecycle.detach(failures)
    assert failures.seen == [(task, error)]
    assert attribute(spans.one("run " + task), "celery.outcome") == state


def test_eager_runs_inside_a_run(app: Celery, spans: Recorder, result_of: Get) -> None:
    """A task that fails eagerly inside my task is its own error, and mine goes on."""
    current = result_of(app.tasks["eager"].delay())
    spans.wait("run eager", "run boom")
    assert spans.tree() == ["publish eager", "  run eager", "    run boom"]
    outer = spans.one("run eager")
    assert outcome(outer) == ("UNSET", "succeeded")
    assert outcome(spans.one("run boom")) == ("ERROR", "failed")
    assert current == f"{span_id(outer):016x}"


def test_latency_counts_from_the_eta(app: Celery, spans: Recorder, result_of: Get) -> None:
    """A task that had to wait until its ETA did not wait for a worker."""
    result_of(app.tasks["add"].apply_async((1, 1), countdown=1.0))
    spans.wait("run add")
    run = spans.one("run add")
    latency, eta = attribute(run, "celery.queue_latency"), attribute(run, "celery.eta")
    assert isinstance(latency, float)
    since_the_eta = (run.start_time or 0) / 1e9 - datetime.fromisoformat(str(eta)).timestamp()
    # An ETA is written down to the microsecond, and timers may fire early.
    assert 0 <= latency < max(0.0, since_the_eta) + 0.001


def test_without_stock_attributes(app: Celery, result_of: Get) -> None:
    """Without stock attributes, none of their keys is left."""
    recorder = Recorder()
    with instrumented(recorder, stock_attributes=False):
        result_of(app.tasks["add"].delay(1, 1))
        recorder.wait("run add")
    for span in recorder.spans:
        assert not {"celery.action", "messaging.destination", "celery.delivery_info"} & set(
            span.attributes or {}
        )


def test_with_stock_attributes(app: Celery, spans: Recorder, result_of: Get) -> None:
    """Dashboards made for OpenTelemetry's own instrumentation find their keys."""
    result_of(app.tasks["add"].delay(1, 1))
    spans.wait("run add")
    publish, run = spans.one("publish add"), spans.one("run add")
    assert [attribute(span, "celery.action") for span in (publish, run)] == ["apply_async", "run"]
    assert [attribute(span, "messaging.destination") for span in (publish, run)] == ["orders"] * 2
    assert attribute(publish, "messaging.destination_kind") == "queue"
    assert attribute(run, "messaging.conversation_id") == attribute(run, "messaging.message.id")


def test_span_links_instead_of_parents(app: Celery, result_of: Get) -> None:
    """With `use_span_links` a run is a trace of its own, linked to its publish."""
    recorder = Recorder()
    with instrumented(recorder, use_span_links=True):
        result_of(app.tasks["add"].delay(1, 1))
        recorder.wait("run add")
    publish, run = recorder.one("publish add"), recorder.one("run add")
    assert run.parent is None
    assert recorder.traces == 2
    assert links(run) == [("publish", span_id(publish))]
