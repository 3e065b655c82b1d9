"""Failures that Celery's control flow hides: each is reported, once, with its cause."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

import pytest
from celery import Celery, Task, group, signature
from celery.app.trace import build_tracer
from celery.exceptions import Reject

from taskobs.celery.signals import TaskSignals
from taskobs.internal.guard import Guard
from taskobs.model import Outcome, Run
from taskobs.observers.base import Observer
from tests.support.recording import Recorder, exceptions, outcome


class Witness(Observer):
    """Remembers the runs and their failures."""

    def __init__(self) -> None:
        self.runs: list[Run] = []
        self.failures: list[BaseException | None] = []

    def run(self, run: Run) -> Any:
        self.runs.append(run)
        return self

    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None: ...

    def failed(self, run: Run) -> None:
        self.failures.append(run.exception)


@pytest.fixture
def witness() -> Generator[Witness]:
    signals, witness = TaskSignals(Guard(strict=True)), Witness()
    signals.attach(witness)
    yield witness
    signals.detach(witness)


def run_as_a_worker(app: Celery, task: Any) -> None:
    trace_task: Any = build_tracer(task.name, task, app=app)
    route = {"exchange": "", "routing_key": "celery"}
    trace_task("id-1", (), {}, {"id": "id-1", "is_eager": False, "delivery_info": route})


@contextmanager
def refusing(app: Celery, error: Exception) -> Generator[None]:
    def refuse(*_: object, **__: object) -> None:
        raise error

    app.amqp.__dict__["send_task_message"] = refuse
    yield
    del app.amqp.__dict__["send_task_message"]


CAUSE = ValueError("busy")


def with_arguments_it_does_not_take(task: Any) -> object:
    return task.retry(kwargs={"x": 1}, exc=CAUSE)


def plainly(task: Any) -> object:
    return task.retry(exc=CAUSE)


def inside_except(task: Any) -> object:
    try:
        raise CAUSE
    except ValueError as error:
        raise task.retry(exc=error) from None


@pytest.mark.parametrize(
    ("retry", "error"),
    [
        (with_arguments_it_does_not_take, TypeError),
        (plainly, ConnectionError),
        (inside_except, ConnectionError),
    ],
)
def test_a_retry_that_can_not_be_published_is_a_failure(
    app: Celery, witness: Witness, retry: Callable[[Any], object], error: type[Exception]
) -> None:
    """My retry can't be sent, so the task is gone: I hear of it, with what made it retry."""

    @app.task(name="again", bind=True)
    def again(self: Task[Any, Any]) -> None:
        retry(self)

    with refusing(app, ConnectionError("refused")):
        run_as_a_worker(app, again)
    assert [(run.outcome, run.expected) for run in witness.runs] == [(Outcome.FAILED, False)]
    [failure] = witness.failures
    assert isinstance(failure, error)
    assert CAUSE in (failure.__cause__, failure.__context__)


def test_a_message_that_i_reject_is_rejected(app: Celery, witness: Witness) -> None:
    """I reject with an exception that I handle, as Celery's documentation does: no failure."""

    @app.task(name="reject", bind=True)
    def reject(_: Task[Any, Any]) -> None:
        try:
            raise CAUSE
        except ValueError as error:
            raise Reject(error, requeue=False) from error

    run_as_a_worker(app, reject)
    assert [run.outcome for run in witness.runs] == [Outcome.REJECTED]
    assert not witness.failures


def test_a_retry_that_is_survived_is_no_failure(app: Celery, witness: Witness) -> None:
    """I handle the failure of a retry myself and return: the run has succeeded."""

    @app.task(name="again", bind=True)
    def again(self: Task[Any, Any]) -> None:
        try:
            self.retry(exc=CAUSE)
        except Reject:
            return

    with refusing(app, ConnectionError("refused")):
        run_as_a_worker(app, again)
    assert [run.outcome for run in witness.runs] == [Outcome.SUCCEEDED]
    assert not witness.failures


def test_a_group_that_raises_in_the_middle_is_an_error(app: Celery, spans: Recorder) -> None:
    """I publish a group, and the broker refuses half of it: the group's span is an ERROR."""

    @app.task(name="part")
    def part() -> None: ...

    send: Any = app.amqp.send_task_message
    sent: list[object] = []

    def refuse_the_second(*args: object, **named: object) -> object:
        sent.append(args)
        if len(sent) > 1:
            raise ConnectionError("refused")
        return send(*args, **named)

    app.amqp.__dict__["send_task_message"] = refuse_the_second
    parts = group([signature("part", app=app) for _ in range(3)], app=app)
    with pytest.raises(ConnectionError):
        parts.apply_async()
    whole = spans.one("publish celery.group")
    assert outcome(whole)[0] == "ERROR"
    assert exceptions(whole) == ["ConnectionError"]
    assert [span.status.status_code.name for span in spans.named("publish part")] == [
        "UNSET",
        "ERROR",
    ]
