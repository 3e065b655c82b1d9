"""Runs of whatever sends ``task_prerun`` and ``task_postrun`` itself, as batches of messages do."""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator
from types import SimpleNamespace
from typing import Any

import pytest
from celery import Celery, signals
from celery.utils.log import get_logger
from opentelemetry import trace

from taskobs.celery.active import current_run
from taskobs.celery.signals import TaskSignals
from taskobs.internal.guard import Guard
from taskobs.model import Outcome, Run
from taskobs.observers.base import Observer
from tests.support.recording import Recorder, attribute, links, outcome

log = get_logger("celery_batches.trace")


class Witness(Observer):
    """Remembers the runs, the failures, and what is open."""

    def __init__(self) -> None:
        self.runs: list[Run] = []
        self.failures: list[BaseException | None] = []
        self.closed = 0

    def run(self, run: Run) -> Any:
        self.runs.append(run)
        return self

    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None:
        self.closed += 1

    def failed(self, run: Run) -> None:
        self.failures.append(run.exception)


@pytest.fixture
def witness() -> Generator[Witness]:
    signals_of_tasks, witness = TaskSignals(Guard(strict=True)), Witness()
    signals_of_tasks.attach(witness)
    yield witness
    signals_of_tasks.detach(witness)


@pytest.fixture
def task(app: Celery) -> Any:
    @app.task(name="index")
    def index(_: object) -> None: ...

    return index


def message(number: int, **headers: object) -> SimpleNamespace:
    """Make what stands for one message of a batch."""
    route = {"exchange": "", "routing_key": "orders"}
    fields: dict[str, object] = {"id": f"id-{number}", **headers}
    return SimpleNamespace(request_dict=fields, delivery_info=route, hostname="celery@w1")


def batch(
    task: Any,
    task_id: str,
    *messages: SimpleNamespace,
    body: Callable[[], object] = lambda: None,
    ends: bool = True,
) -> None:
    """Do as celery-batches does: a request without an id, and an exception that is only logged."""
    task.push_request(loglevel=0, logfile=None)
    call: dict[str, Any] = {"sender": task, "task_id": task_id, "task": task}
    call |= {"args": (list(messages),), "kwargs": {}}
    state: str = "SUCCESS"
    try:
        signals.task_prerun.send(**call)
        try:
            body()
        except Exception as error:
            state = "FAILURE"
            log.exception("Error: %r", error)  # noqa: TRY401  # as that has it
    finally:
        if ends:
            signals.task_postrun.send(**call, retval=None, state=state)
        task.pop_request()


def test_a_batch_is_a_run_with_the_id_of_its_signals(task: Any, witness: Witness) -> None:
    """My batch begins and ends under the id that its signals have, as its request has none."""
    seen: list[Run | None] = []
    batch(task, "batch-1", message(1), message(2), body=lambda: seen.append(current_run()))
    assert seen == witness.runs
    [run] = witness.runs
    assert (run.task_id, run.task, run.outcome) == ("batch-1", "index", Outcome.SUCCEEDED)
    assert (run.queue, run.hostname, len(run.batch)) == ("orders", "celery@w1", 2)
    assert witness.closed == 1
    assert current_run() is None


def test_a_batch_that_fails_has_failed_once(task: Any, witness: Witness) -> None:
    """My batch raises, which is only logged, and I hear of it with its exception."""
    error = KeyError("no such order")

    def body() -> None:
        raise error

    batch(task, "batch-1", body=body)
    assert [run.outcome for run in witness.runs] == [Outcome.FAILED]
    assert witness.failures == [error]


def test_what_is_logged_and_survived_is_no_failure(task: Any, witness: Witness) -> None:
    """My batch logs an error and goes on: it has succeeded."""

    def body() -> None:
        try:
            int("no number")  # it raises
        except ValueError:
            log.exception("skipped")

    batch(task, "batch-1", body=body)
    assert [run.outcome for run in witness.runs] == [Outcome.SUCCEEDED]
    assert not witness.failures


@pytest.mark.parametrize("number", [1, 1_000])
def test_a_run_that_never_ends_is_closed_by_the_next(
    task: Any, witness: Witness, number: int
) -> None:
    """However often the end of a run does not come, nothing piles up, and each is reported."""
    for each in range(number):
        batch(task, f"batch-{each}", ends=False)
    batch(task, "last")
    assert witness.closed == number + 1
    assert [run.outcome for run in witness.runs] == [Outcome.LOST] * number + [Outcome.SUCCEEDED]
    assert witness.runs[0].reason == "its end was never reported"
    assert current_run() is None


def test_an_end_closes_what_began_inside(app: Celery, task: Any, witness: Witness) -> None:
    """A run inside a batch loses its end, and the batch ends all the same."""

    @app.task(name="inner")
    def inner() -> None: ...

    def body() -> None:
        inner.push_request(id="inner-1", is_eager=True)
        signals.task_prerun.send(inner, task_id="inner-1", task=inner, args=(), kwargs={})
        inner.pop_request()

    batch(task, "batch-1", body=body)
    ends = {run.task: run.outcome for run in witness.runs}
    assert ends == {"index": Outcome.SUCCEEDED, "inner": Outcome.LOST}
    assert witness.closed == 2
    assert current_run() is None


def test_eager_runs_that_never_end_do_not_pile_up(app: Celery, witness: Witness) -> None:
    """A library begins eager runs and forgets their ends: what is open stays bounded."""

    @app.task(name="inner")
    def inner() -> None: ...

    for number in range(3_000):
        inner.push_request(id=f"id-{number}", is_eager=True)
        signals.task_prerun.send(inner, task_id=f"id-{number}", task=inner, args=(), kwargs={})
        inner.pop_request()
    assert len(witness.runs) - witness.closed <= 1_000
    batch(inner, "last")
    assert current_run() is None


def test_an_end_of_a_run_that_is_not_open_changes_nothing(task: Any, witness: Witness) -> None:
    """A stray end of some run ends none of mine."""

    def body() -> None:
        signals.task_postrun.send(task, task_id="other", task=task, retval=None, state="SUCCESS")
        assert current_run() is not None

    batch(task, "batch-1", body=body)
    assert [run.outcome for run in witness.runs] == [Outcome.SUCCEEDED]


def test_nothing_listens_when_nobody_observes(task: Any) -> None:
    """After the last observer has gone, no handler of ours is left on its logger."""
    logger = logging.getLogger("celery_batches.trace")
    before = list(logger.handlers)
    signals_of_tasks, witness = TaskSignals(Guard(strict=True)), Witness()
    signals_of_tasks.attach(witness)
    batch(task, "batch-1")
    signals_of_tasks.detach(witness)
    assert logger.handlers == before


def test_a_batch_is_linked_to_the_publishes_of_its_messages(task: Any, spans: Recorder) -> None:
    """I open the trace of a batch, and find there who published each of its messages."""
    traceparents = [f"00-{trace_id:032x}-{trace_id + 10:016x}-01" for trace_id in (7, 8)]
    messages = [message(n, traceparent=text) for n, text in enumerate(traceparents)]
    batch(task, "batch-1", *messages, message(3))
    run = spans.one("run index")
    assert run.parent is None
    assert links(run) == [("publish", 17), ("publish", 18)]
    assert attribute(run, "messaging.batch.message_count") == 3
    assert attribute(run, "messaging.message.id") == "batch-1"
    assert attribute(run, "messaging.destination.name") == "orders"
    assert outcome(run) == ("UNSET", "succeeded")
    assert not trace.get_current_span().get_span_context().is_valid
