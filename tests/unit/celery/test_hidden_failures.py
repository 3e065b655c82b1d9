"""Failures that Celery's control flow hides: each is reported, once, with its cause."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import sentry_sdk
from billiard.einfo import ExceptionInfo
from billiard.exceptions import TimeLimitExceeded, WorkerLostError
from celery import VERSION, Celery, Task, chain, group, signature
from celery.app.trace import build_tracer
from celery.exceptions import Ignore, Reject
from celery.result import AsyncResult
from celery.worker import strategy
from kombu.exceptions import EncodeError, OperationalError

from taskobs.celery.signals import TaskSignals
from taskobs.internal.guard import Guard
from taskobs.model import Outcome, Run
from taskobs.observers.base import Observer
from taskobs.observers.sentry.observer import SentryObserver
from taskobs.sentry.pipeline import SentryPipeline
from tests.support.recording import Recorder, exceptions, outcome
from tests.support.sentry import Settings, clear_isolation_scope, user_init


class Witness(Observer):
    """Remembers the runs and their failures."""

    def __init__(self, signals: TaskSignals) -> None:
        self.signals = signals
        self.runs: list[Run] = []
        self.failures: list[BaseException | None] = []
        self.failed_runs: list[tuple[str, str, Outcome | None]] = []

    def run(self, run: Run) -> Any:
        self.runs.append(run)
        return self

    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None: ...

    def failed(self, run: Run) -> None:
        self.failures.append(run.exception)
        self.failed_runs.append((run.task, run.task_id, run.outcome))


@pytest.fixture
def witness() -> Generator[Witness]:
    """Give what is seen; whatever Celery logs, Sentry has one event, with tags, of each failure."""
    signals, kept = TaskSignals(Guard(strict=True)), user_init()
    witness = Witness(signals)
    pipeline = SentryPipeline.start(Settings())
    observers = SentryObserver(pipeline), witness
    for observer in observers:
        signals.attach(observer)
    yield witness
    for observer in observers:
        signals.detach(observer)
    pipeline.close(1.0)
    sentry_sdk.get_global_scope().set_client(None)
    clear_isolation_scope()
    found = [event.get("tags", {}) for event in kept.events]
    assert [
        (tags.get("celery.task"), tags.get("celery.task_id"), tags.get("celery.outcome"))
        for tags in found
    ] == [
        (task, task_id, outcome and outcome.value) for task, task_id, outcome in witness.failed_runs
    ]


def run_as_a_worker(
    app: Celery, task: Any, *args: object, message: Mapping[str, object] | None = None
) -> None:
    trace_task: Any = build_tracer(task.name, task, app=app)
    route = {"exchange": "", "routing_key": "celery"}
    fields = {"id": "id-1", "is_eager": False, "delivery_info": route, **(message or {})}
    trace_task("id-1", args, {}, fields)


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


def test_a_message_that_i_ignore_is_no_failure(app: Celery, witness: Witness) -> None:
    """I say that nobody needs to know how my task went, and nobody hears of it."""

    @app.task(name="ignore")
    def ignore() -> None:
        raise Ignore from CAUSE

    run_as_a_worker(app, ignore)
    assert [run.outcome for run in witness.runs] == [Outcome.IGNORED]
    assert not witness.failures


def by_a_task(app: Celery) -> Any:
    return signature("part", app=app)


def by_a_chain(app: Celery) -> Any:
    return chain(by_a_task(app), by_a_task(app), app=app)


@pytest.mark.parametrize("other", [by_a_task, by_a_chain])
def test_a_replacement_that_can_not_be_published_is_a_failure(
    app: Celery, witness: Witness, other: Callable[[Celery], Any]
) -> None:
    """My task hands its work on, the broker refuses that, and the task has failed."""

    @app.task(name="hands_on", bind=True)
    def hands_on(self: Task[Any, Any]) -> None:
        self.replace(other(app))

    with refusing(app, ConnectionError("refused")):
        run_as_a_worker(app, hands_on)
    assert [run.outcome for run in witness.runs] == [Outcome.FAILED]
    assert [type(error) for error in witness.failures] == [ConnectionError]


# Before 5.7 Celery lets the first pass, and warns of it.
@pytest.mark.filterwarnings("ignore:Exception raised outside body:RuntimeWarning")
@pytest.mark.parametrize("error", [OperationalError("refused"), EncodeError("a lambda")])
def test_a_callback_that_can_not_be_published_is_a_failure(
    app: Celery, witness: Witness, error: Exception
) -> None:
    """My task has done its work, and what I linked to it can't be sent: I hear of that."""

    @app.task(name="done")
    def done() -> None: ...

    with refusing(app, error):
        run_as_a_worker(app, done, message={"callbacks": [signature("part", app=app)]})
    assert [run.outcome for run in witness.runs] == [Outcome.FAILED]
    assert witness.failures == [error]


# Before 5.7 Celery lets the errback's error pass, warns of it, and calls the errback once more.
@pytest.mark.filterwarnings("ignore:Exception raised outside body:RuntimeWarning")
def test_an_errback_that_raises_is_reported_with_the_failure_it_was_called_for(
    app: Celery, witness: Witness
) -> None:
    """My errback breaks while it handles a failure: I hear of both, as one run that failed."""

    @app.task(name="fails")
    def fails() -> None:
        raise CAUSE

    errback: Any = app.task(name="breaks")(breaks)
    if VERSION[:2] >= (5, 7):
        run_as_a_worker(app, fails, message={"errbacks": [errback.s()]})
    else:
        with pytest.raises(RuntimeError):
            run_as_a_worker(app, fails, message={"errbacks": [errback.s()]})
    assert [run.outcome for run in witness.runs] == [Outcome.FAILED]
    broken, *own = witness.failures
    assert isinstance(broken, RuntimeError)
    assert broken.__context__ is CAUSE
    assert own == ([CAUSE] if VERSION[:2] >= (5, 7) else [])
    assert {outcome for _, _, outcome in witness.failed_runs} == {Outcome.FAILED}


@pytest.mark.parametrize("whose", ["backend", "loader"])
def test_a_cleanup_that_raises_is_reported_with_its_task(
    app: Celery, witness: Witness, monkeypatch: pytest.MonkeyPatch, whose: str
) -> None:
    """Celery cleans up after my task, which fails: I hear of it, with the id of the task."""

    @app.task(name="fine")
    def fine() -> None: ...

    def refuse() -> None:
        raise OSError("can't close")

    target, method = {
        "backend": (fine.backend, "process_cleanup"),
        "loader": (app.loader, "on_process_cleanup"),
    }[whose]
    monkeypatch.setattr(target, method, refuse)
    run_as_a_worker(app, fine)
    assert [run.outcome for run in witness.runs] == [Outcome.SUCCEEDED]
    assert [type(error) for error in witness.failures] == [OSError]
    assert witness.failed_runs == [("fine", "id-1", Outcome.SUCCEEDED)]


def takes_numbers(numbers: list[int]) -> None: ...


def takes_nothing() -> None: ...


CALLBACKS = [
    (takes_numbers, OperationalError("refused"), OperationalError),
    (takes_numbers, EncodeError("a lambda"), EncodeError),
    (takes_nothing, None, TypeError),
]
"""A chord's callback, what refuses it, and what Celery raises."""


def header_of(app: Celery, callback: Any) -> dict[str, object]:
    """Give the message of the only task of a chord's header."""
    header: tuple[str, list[Any]] = "group-1", [AsyncResult("id-1", app=app)]
    app.backend.apply_chord(header, body_of(callback))
    return {"group": "group-1", "chord": {**body_of(callback), "chord_size": 1}}


def body_of(callback: Any) -> Any:
    """Give the callback of a chord, which Celery gives an id when the chord is published."""
    return callback.s().set(task_id="body-1")


@pytest.mark.parametrize(("body", "error", "kind"), CALLBACKS)
def test_a_chord_s_callback_that_can_not_be_published_is_reported(
    app: Celery, witness: Witness, body: Any, error: Exception | None, kind: type[Exception]
) -> None:
    """The header of my chord is done, and its callback can't be sent: I hear why."""

    @app.task(name="part")
    def part() -> int:
        return 1

    message = header_of(app, app.task(name="callback")(body))
    with refusing(app, error or AssertionError("not called")):
        run_as_a_worker(app, part, message=message)
    assert [run.outcome for run in witness.runs] == [Outcome.SUCCEEDED]
    assert [type(failure) for failure in witness.failures] == [kind]
    assert witness.failed_runs == [("part", "id-1", Outcome.SUCCEEDED)]


@pytest.mark.parametrize(("body", "error", "kind"), CALLBACKS)
def test_a_callback_that_a_polling_task_can_not_publish_is_reported(
    app: Celery, witness: Witness, body: Any, error: Exception | None, kind: type[Exception]
) -> None:
    """Celery polls for the end of my chord's header, and can't send the callback: I hear why."""
    callback = app.task(name="callback")(body)
    app.backend.store_result("part-1", 1, "SUCCESS")
    polls = app.tasks["celery.chord_unlock"]
    arguments = "group-1", body_of(callback), 1, None, [("part-1", None)]
    with refusing(app, error or AssertionError("not called")):
        run_as_a_worker(app, polls, *arguments)
    assert [run.outcome for run in witness.runs] == [Outcome.SUCCEEDED]
    assert [type(failure) for failure in witness.failures] == [kind]


def test_a_chord_whose_header_failed_is_one_failure(app: Celery, witness: Witness) -> None:
    """A task of my chord's header fails, so its callback is not called: that is one failure."""

    @app.task(name="part")
    def part() -> None:
        raise CAUSE

    run_as_a_worker(app, part, message=header_of(app, app.task(name="callback")(takes_numbers)))
    assert [run.outcome for run in witness.runs] == [Outcome.FAILED]
    assert witness.failures == [CAUSE]


def test_a_poll_that_can_not_be_published_again_is_one_failure(
    app: Celery, witness: Witness
) -> None:
    """Celery polls for my chord's header, and can't send the next poll: the chord is gone."""
    callback = app.task(name="callback")(takes_numbers)
    polls = app.tasks["celery.chord_unlock"]
    with refusing(app, ConnectionError("refused")):
        try:
            run_as_a_worker(app, polls, "group-1", callback.s(), 1, None, [("part-2", None)])
        finally:
            assert [run.outcome for run in witness.runs] == [Outcome.FAILED]
    assert [type(error) for error in witness.failures] == [ConnectionError]


def received(app: Celery, task: Any, queue: str) -> list[Any]:
    """Hand a worker the next message of a queue; give the requests that it would run."""
    requests: list[Any] = []
    consumer = SimpleNamespace(
        app=app,
        hostname="w1",
        connection_errors=(),
        event_dispatcher=None,
        timer=SimpleNamespace(call_at=None),
        apply_eta_task=None,
        disable_rate_limits=True,
        task_buckets={},
        on_task_request=requests.append,
        pool=SimpleNamespace(uses_semaphore=True, apply_async=None),
        controller=SimpleNamespace(state=SimpleNamespace(revoked=set())),
        **dict.fromkeys(("_limit_task", "_limit_post_eta")),
    )
    handle: Any = strategy.default(task, app, consumer)
    with app.connection_for_read() as connection:
        message: Any = app.amqp.queues[queue](connection.default_channel).get()
        handle(message, None, message.ack_log_error, message.reject_log_error, [])
    return requests


@pytest.mark.skipif(VERSION[:2] < (5, 7), reason="before 5.7 Celery runs it")
def test_an_eta_that_is_no_time_is_a_failure(app: Celery, witness: Witness) -> None:
    """Somebody writes an ETA that can't be converted: the task never runs, and I hear of that."""
    eta = "9999-12-31T23:59:59-12:00"
    task: Any = app.task(name="fine")(takes_nothing)
    witness.signals.worker_runs(None)
    sent = task.apply_async(eta=eta, queue="eta")
    received(app, task, "eta")
    assert isinstance(sent.result, OverflowError)
    [run] = witness.runs
    assert (run.task_id, run.outcome, run.ran, run.eta) == (sent.id, Outcome.FAILED, False, eta)
    assert [type(error) for error in witness.failures] == [OverflowError]


@pytest.mark.skipif(VERSION[:2] >= (5, 7), reason="about Celery before 5.7")
def test_a_run_that_is_not_stopped_by_its_eta_reports_itself(app: Celery) -> None:
    """My older Celery runs the task all the same: no failure but Celery's own line in the log."""
    signals, kept = TaskSignals(Guard(strict=True)), user_init()
    witness, pipeline = Witness(signals), SentryPipeline.start(Settings())
    signals.attach(witness)
    task: Any = app.task(name="fine")(takes_nothing)
    signals.worker_runs(None)
    task.apply_async(eta="9999-12-31T23:59:59-12:00", queue="eta")
    [request] = received(app, task, "eta")
    signals.detach(witness)
    pipeline.close(1.0)
    sentry_sdk.get_global_scope().set_client(None)
    clear_isolation_scope()
    assert request.task.name == "fine"
    assert not witness.runs
    [event] = kept.events
    assert "Couldn't convert ETA" in event["logentry"]["message"]


def breaks(request: object, error: object, traceback: object) -> None:
    raise RuntimeError((request, error, traceback))


def ended_by(error: Exception) -> ExceptionInfo:
    try:
        raise error
    except type(error):
        return ExceptionInfo()


FROM_5_7 = pytest.mark.skipif(VERSION[:2] < (5, 7), reason="Celery 5.7 logs them")


@FROM_5_7
@pytest.mark.parametrize("how", ["killed", "time limit"])
def test_an_errback_that_raises_in_the_worker_is_reported_with_its_task(
    app: Celery, witness: Witness, how: str
) -> None:
    """My task's process is gone, and my errback breaks in the worker: both events have its id."""
    task: Any = app.task(name="fine")(takes_nothing)
    errback: Any = app.task(name="breaks")(breaks)
    witness.signals.worker_runs(None)
    sent = task.apply_async(link_error=errback.s(), queue="errbacks")
    [request] = received(app, task, "errbacks")
    if how == "killed":
        request.on_failure(ended_by(WorkerLostError("signal 9 (SIGKILL)")))
    else:
        request.on_timeout(soft=False, timeout=1)
    kinds = [WorkerLostError if how == "killed" else TimeLimitExceeded, RuntimeError]
    assert {type(error) for error in witness.failures} == {*kinds}
    assert witness.failed_runs == [("fine", sent.id, Outcome.LOST)] * 2


@FROM_5_7
def test_the_retry_of_a_lost_run_that_can_not_be_published_is_reported_with_its_task(
    app: Celery, witness: Witness
) -> None:
    """My task's process is gone, and Celery can't publish its retry: I hear of both."""
    task: Any = app.task(name="fine", retry_on_worker_lost=True)(takes_nothing)
    witness.signals.worker_runs(None)
    sent = task.apply_async(queue="retries")
    [request] = received(app, task, "retries")
    with refusing(app, ConnectionError("refused")):
        request.on_failure(ended_by(WorkerLostError("signal 9 (SIGKILL)")))
    assert [type(error) for error in witness.failures] == [WorkerLostError, ConnectionError]
    assert witness.failed_runs == [("fine", sent.id, Outcome.LOST)] * 2


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
