from __future__ import annotations

import logging
from asyncio import CancelledError
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

import pytest
from billiard import common, process
from celery import Celery, Task, signals
from celery.app.trace import build_tracer
from celery.exceptions import Ignore, Reject, SoftTimeLimitExceeded
from celery.worker import strategy as celery_strategy
from opentelemetry import trace

from taskobs.celery.active import current_run
from taskobs.celery.signals import TaskSignals
from taskobs.internal.guard import Guard
from taskobs.model import Outcome, Publish, Run
from taskobs.observers.base import Observer

BILLIARD_GOES_ON = hasattr(common, "terminate_handler_fired")
"""Whether a pool child outlives what is no Exception: since billiard 4.3."""


class Witness(Observer):
    """Remembers all it is shown."""

    def __init__(self) -> None:
        self.publishes: list[Publish] = []
        self.runs: list[Run] = []
        self.failures: list[tuple[str, BaseException | None]] = []
        self.open: list[str] = []

    @contextmanager
    def publish(self, publish: Publish) -> Generator[None]:
        self.publishes.append(publish)
        with self._open("publish " + publish.task):
            yield

    @contextmanager
    def run(self, run: Run) -> Generator[None]:
        self.runs.append(run)
        with self._open("run " + run.task):
            yield

    @contextmanager
    def _open(self, name: str) -> Generator[None]:
        self.open.append(name)
        yield
        assert self.open.pop() == name

    def failed(self, run: Run) -> None:
        self.failures.append((run.task, run.exception))

    @property
    def outcomes(self) -> list[tuple[Outcome | None, bool]]:
        return [(run.outcome, run.expected) for run in self.runs]


@pytest.fixture
def lifecycle() -> Generator[TaskSignals]:
    made = TaskSignals(Guard(strict=True))
    yield made
    assert not made.guard.counts


@pytest.fixture
def witness(lifecycle: TaskSignals) -> Generator[Witness]:
    witness = Witness()
    lifecycle.attach(witness)
    yield witness
    lifecycle.detach(witness)
    assert not witness.open
    assert current_run() is None


ENDINGS: dict[str, tuple[Callable[[], object], Outcome, int]] = {
    "return": (lambda: 1, Outcome.SUCCEEDED, 0),
    "raise": (lambda: _raise(KeyError("x")), Outcome.FAILED, 1),
    "ignore": (lambda: _raise(Ignore("not now")), Outcome.IGNORED, 0),
    "reject": (lambda: _raise(Reject("bad", requeue=False)), Outcome.REJECTED, 0),
    "soft limit": (lambda: _raise(SoftTimeLimitExceeded()), Outcome.FAILED, 1),
}


def _raise(error: BaseException) -> object:
    raise error


@pytest.mark.parametrize("external", ENDINGS)
def test_an_ending_has_one_outcome(app: Celery, witness: Witness, external: str) -> None:
    """However my task ends, it is told once, and only real failures are failures."""
    body, outcome, failures = ENDINGS[external]

    @app.task(name="end")
    def end() -> object:
        return body()

    end.apply()
    assert witness.outcomes == [(outcome, False)]
    assert len(witness.failures) == failures


@pytest.mark.parametrize("throws", [(KeyError,), (ValueError, KeyError), KeyError, LookupError])
def test_expected_exceptions_are_no_failures(app: Celery, witness: Witness, throws: Any) -> None:
    """An exception that I list in `throws`, as a tuple or alone, is expected."""

    @app.task(name="expected", throws=throws)
    def expected() -> None:
        raise KeyError("no such order")

    expected.apply()
    assert witness.outcomes == [(Outcome.FAILED, True)]
    assert not witness.failures


def test_throw_in_eager_mode_is_a_failure_once(app: Celery, witness: Witness) -> None:
    """`apply(throw=True)` raises to me, and the failure is told once."""

    @app.task(name="boom")
    def boom() -> None:
        raise KeyError("boom")

    with pytest.raises(KeyError):
        boom.apply(throw=True)
    assert witness.outcomes == [(Outcome.FAILED, False)]
    assert len(witness.failures) == 1


def test_a_run_inside_an_except_block_has_its_own_outcome(app: Celery, witness: Witness) -> None:
    """A task that I run while I handle an error is not blamed for that error."""

    @app.task(name="fine")
    def fine() -> int:
        return 1

    try:
        _raise(KeyError("mine"))
    except KeyError:
        assert fine.apply(throw=True).get() == 1
    assert witness.outcomes == [(Outcome.SUCCEEDED, False)]
    assert not witness.failures


def test_a_task_that_raises_what_its_caller_handles_has_failed(
    app: Celery, witness: Witness
) -> None:
    """Also when a task raises the very exception that I handle, it has failed."""
    mine = KeyError("mine")

    @app.task(name="again")
    def again() -> None:
        raise mine

    try:
        raise mine
    except KeyError:
        with pytest.raises(KeyError):
            again.apply(throw=True)
    assert witness.outcomes == [(Outcome.FAILED, False)]
    assert witness.runs[0].exception is mine


def test_nested_eager_runs_restore_the_outer_one(app: Celery, witness: Witness) -> None:
    """After a task that ran inside a task, the outer one is the current one again."""
    seen: list[str | None] = []

    def note() -> None:
        run = current_run()
        seen.append(run.task if run else None)

    @app.task(name="inner")
    def inner() -> None:
        note()
        raise KeyError("inner")

    @app.task(name="outer")
    def outer() -> None:
        note()
        inner.apply()
        note()

    outer.apply()
    note()
    assert seen == ["outer", "inner", "outer", None]
    assert witness.outcomes == [(Outcome.SUCCEEDED, False), (Outcome.FAILED, False)]


def test_one_failure_that_travels_through_eager_runs_fails_each(
    app: Celery, witness: Witness
) -> None:
    """An error that my inner task lets through fails the outer task too."""

    @app.task(name="inner")
    def inner() -> None:
        raise KeyError("deep")

    @app.task(name="outer")
    def outer() -> None:
        inner.apply(throw=True)

    outer.apply()
    assert [task for task, _ in witness.failures] == ["inner", "outer"]


def test_an_eager_retry_is_retried_then_succeeds(app: Celery, witness: Witness) -> None:
    """A retry in eager mode is two attempts: the first retried, the second succeeded."""

    @app.task(name="flaky", bind=True)
    def flaky(self: Task[Any, Any]) -> int:
        if not self.request.retries:
            raise self.retry(exc=ValueError("busy"), countdown=0)
        return 1

    flaky.apply()
    assert [(run.attempt, run.outcome) for run in witness.runs] == [
        (1, Outcome.RETRIED),
        (2, Outcome.SUCCEEDED),
    ]
    assert isinstance(witness.runs[0].exception, ValueError)
    assert not witness.failures


def test_hundreds_of_nested_eager_runs_leave_nothing_current(app: Celery, witness: Witness) -> None:
    """However many tasks I run inside tasks, nothing stays behind."""

    @app.task(name="inner")
    def inner() -> None:
        raise KeyError("inner")

    @app.task(name="outer")
    def outer() -> None:
        inner.apply()

    for _ in range(200):
        outer.apply()
    assert len(witness.runs) == 400
    assert not witness.open
    assert current_run() is None
    assert not trace.get_current_span().get_span_context().is_valid


class Grudge(Exception):  # noqa: N818  # an exception of a user's own
    """Raises whatever you ask it."""

    def __str__(self) -> str:
        raise RuntimeError("no")

    __repr__ = __str__

    def __eq__(self, other: object) -> bool:
        raise RuntimeError("no")

    __hash__ = Exception.__hash__


def test_an_exception_that_can_not_be_compared_is_reported_once(
    app: Celery, witness: Witness
) -> None:
    """An exception class of mine may be as odd as it wants to be."""
    unexpected = Grudge()

    @app.task(name="odd")
    def raises() -> None:
        raise unexpected

    with pytest.raises(Grudge):
        raises.apply(throw=True)
    with pytest.raises(Grudge):
        raises.apply(throw=True)
    assert [error is unexpected for _, error in witness.failures] == [True, True]


def test_equal_exceptions_are_two_failures(app: Celery, witness: Witness) -> None:
    """Two errors that compare equal are still two."""

    class Equal(Exception):  # noqa: N818  # as above
        def __eq__(self, other: object) -> bool:
            return True

        __hash__ = Exception.__hash__

    class Raising(app.Task):  # type: ignore[misc, name-defined]
        def on_failure(self, *_: Any, **__: Any) -> None:
            raise Equal("in the hook")

    @app.task(name="equal", base=Raising)
    def equal() -> None:
        raise Equal("in the task")

    with pytest.raises(Equal):
        equal.apply()
    assert [str(error) for _, error in witness.failures] == ["in the hook"]


def test_a_publish_inside_a_run_knows_it(app: Celery, witness: Witness) -> None:
    """A task that calls a task is told as its caller."""

    @app.task(name="callee")
    def callee() -> None: ...

    @app.task(name="caller")
    def caller() -> None:
        callee.delay()

    caller.apply()
    (publish,) = witness.publishes
    assert publish.within is witness.runs[0]
    assert (publish.task, publish.queue, publish.attempt) == ("callee", "celery", 1)


def test_a_refused_publish_tells_its_error(app: Celery, witness: Witness) -> None:
    """When the broker refuses, the publish has the error, and I get it."""
    refusal = ConnectionError("refused")
    with _refusing(app, refusal), pytest.raises(ConnectionError):
        app.send_task("any")
    assert witness.publishes[0].error is refusal


@contextmanager
def _refusing(app: Celery, error: Exception) -> Generator[None]:
    def refuse(*_: object, **__: object) -> None:
        raise error

    app.amqp.__dict__["send_task_message"] = refuse
    yield
    del app.amqp.__dict__["send_task_message"]


class Broken(Observer):
    """Raises when a run or publish closes."""

    @contextmanager
    def publish(self, publish: Publish) -> Generator[None]:
        yield
        raise RuntimeError(publish.task)

    @contextmanager
    def run(self, run: Run) -> Generator[None]:
        yield
        raise RuntimeError(run.task)


class Opened(Observer):
    """Sees what its context managers are given."""

    def __init__(self) -> None:
        self.closed: list[str] = []

    @contextmanager
    def publish(self, publish: Publish) -> Generator[None]:
        yield
        self.closed.append("publish " + publish.task)

    @contextmanager
    def run(self, run: Run) -> Generator[None]:
        yield
        self.closed.append("run " + run.task)


def test_a_broken_observer_does_not_harm_the_others(app: Celery) -> None:
    """One part of telemetry that fails takes neither my task nor the other parts with it."""
    lifecycle = TaskSignals(Guard())
    sound, broken = Opened(), Broken()
    lifecycle.attach(sound)
    lifecycle.attach(broken)

    @app.task(name="fine")
    def fine() -> int:
        return 1

    try:
        assert fine.apply().get() == 1
        fine.delay()
    finally:
        lifecycle.detach(sound)
        lifecycle.detach(broken)
    assert sound.closed == ["run fine", "publish fine"]
    assert lifecycle.guard.counts == {"builtins.RuntimeError": 2}


class Refusing(Observer):
    """Raises on every call."""

    def publish(self, publish: Publish) -> Any:
        raise RuntimeError(publish.task)

    canvas = run = sending = failed = publish  # type: ignore[assignment]  # it raises first


@pytest.mark.parametrize("call", ["apply", "delay"])
def test_an_observer_that_raises_never_breaks_a_task(
    app: Celery, caplog: pytest.LogCaptureFixture, call: str
) -> None:
    """Whatever goes wrong in telemetry, my task and my publish go on, and it is logged once."""
    lifecycle = TaskSignals(Guard())
    observer = Refusing()
    lifecycle.attach(observer)

    @app.task(name="fine")
    def fine() -> int:
        return 1

    try:
        with caplog.at_level(logging.WARNING, "taskobs"):
            for _ in range(3):
                getattr(fine, call)()
    finally:
        lifecycle.detach(observer)
    assert [record.name for record in caplog.records] == ["taskobs"]
    assert lifecycle.guard.counts.total() >= 3


def test_nothing_of_ours_is_left_in_celery(app: Celery) -> None:
    """Once nobody observes, Celery is as it was, also after a thousand refused publishes."""
    before = {name: _receivers(name) for name in SIGNALS}
    send_task = Celery.__dict__["send_task"]
    handlers = list(logging.getLogger("celery.app.trace").handlers)
    lifecycle = TaskSignals(Guard(strict=True))
    witness = Witness()
    lifecycle.attach(witness)
    assert Celery.__dict__["send_task"] is not send_task
    with _refusing(app, ConnectionError("refused")):
        for _ in range(1_000):
            with pytest.raises(ConnectionError):
                app.send_task("any")
    lifecycle.detach(witness)
    lifecycle.detach(witness)  # twice is once
    assert Celery.__dict__["send_task"] is send_task
    assert {name: _receivers(name) for name in SIGNALS} == before
    assert logging.getLogger("celery.app.trace").handlers == handlers
    assert not trace.get_current_span().get_span_context().is_valid


@pytest.mark.parametrize("signal", ["worker_init", "celeryd_after_setup"])
def test_a_worker_is_supervised_from_either_signal_of_its_start(signal: str) -> None:
    """I call `init()` before my worker starts or while it does, and again later: it is watched."""
    strategy: Any = celery_strategy
    create = strategy.create_request_cls
    lifecycle, witness = TaskSignals(Guard(strict=True)), Witness()
    for watched in (False, True):  # once it has started, a new session goes on
        lifecycle.attach(witness)
        try:
            assert (strategy.create_request_cls is not create) is watched
            getattr(signals, signal).send(None)
            assert strategy.create_request_cls is not create
        finally:
            lifecycle.detach(witness)
        assert strategy.create_request_cls is create


@pytest.fixture
def pool_child(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Let this process pass for a pool child."""
    monkeypatch.setattr(process.current_process(), "_name", "ForkPoolWorker-1")
    return monkeypatch


@pytest.mark.parametrize(
    ("error", "external", "told"),
    [
        (CancelledError(), False, BILLIARD_GOES_ON),
        (CancelledError(), True, False),
        (SystemExit(1), False, False),
        (KeyboardInterrupt(), False, False),
    ],
)
def test_a_pool_child_tells_of_what_does_not_end_it(
    app: Celery,
    witness: Witness,
    pool_child: pytest.MonkeyPatch,
    *,
    error: BaseException,
    external: bool,
    told: bool,
) -> None:
    """My task lets out what is no Exception: its process tells of it, or else its parent does."""

    @app.task(name="leaves")
    def leaves() -> None:
        raise error

    pool_child.setattr(common, "_should_have_exited", [external])
    trace_task = build_tracer("leaves", leaves, app=app)
    with pytest.raises(type(error)):
        trace_task("some-id", [], {}, {"id": "some-id"})
    assert witness.outcomes == [(Outcome.LOST, False)]
    assert [run.abandoned for run in witness.runs] == [not told]
    assert len(witness.failures) == told


SIGNALS = ("before_task_publish", "task_prerun", "task_postrun", "task_failure", "task_retry")


def _receivers(name: str) -> int:
    return len(getattr(signals, name).receivers or ())
