"""A failure that a task captures by itself is the run's failure: one event, with its outcome."""

from __future__ import annotations

import gc
import logging
import pickle
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import sentry_sdk
from celery.exceptions import SoftTimeLimitExceeded
from celery.utils.serialization import get_pickleable_exception

from taskobs.model import Outcome, Run
from taskobs.observers.sentry.observer import SentryObserver
from taskobs.sentry.pipeline import SentryPipeline
from tests.support.sentry import Kept, Settings, clear_isolation_scope, make_run, user_init

Start = Callable[..., tuple[Kept, SentryObserver]]
log = logging.getLogger("shop")


class DeclinedError(Exception):
    """An exception of the app's own, to which there are weak references."""


@pytest.fixture
def start() -> Iterator[Start]:
    """Start a pipeline over a user-made client, and undo both afterwards."""
    pipelines: list[SentryPipeline] = []

    def begin(**options: Any) -> tuple[Kept, SentryObserver]:
        kept = user_init(**options)
        pipelines.append(SentryPipeline.start(Settings()))
        return kept, SentryObserver(pipelines[0])

    yield begin
    for pipeline in pipelines:
        pipeline.close(1.0)
    sentry_sdk.get_global_scope().set_client(None)
    clear_isolation_scope()


def throw(error: BaseException) -> None:
    raise error


def logs(error: BaseException) -> None:
    assert error
    log.error("payment failed", exc_info=error)


def captures(error: BaseException) -> None:
    assert sentry_sdk.capture_exception(error)


def captures_twice(error: BaseException) -> None:
    captures(error)
    logs(error)


def fail_by(
    observer: SentryObserver,
    run: Run,
    error: BaseException,
    *,
    after: Callable[[BaseException], object],
) -> None:
    """Let a run fail by an exception that its body does something with first."""
    with observer.run(run):
        try:
            try:
                throw(error)
            except BaseException as caught:
                after(caught)
                raise
        except BaseException as caught:  # noqa: BLE001  # as Celery has it
            run.outcome, run.exception = Outcome.FAILED, caught
            observer.failed(run)


@pytest.mark.parametrize("kind", [ValueError, DeclinedError])
@pytest.mark.parametrize("how", [logs, captures, captures_twice])
def test_a_failure_that_was_captured_is_one_event(
    start: Start, how: Callable[[BaseException], object], kind: type[Exception]
) -> None:
    """I log or capture an exception and raise it again: one event, with outcome, on the span."""
    kept, observer = start()
    run = make_run()
    fail_by(observer, run, kind("no"), after=how)
    (event,) = kept.events
    assert event["tags"]["celery.outcome"] == "failed"
    assert run.event_id == event["event_id"]


def test_the_id_that_capture_gave_is_the_events(start: Start) -> None:
    """The event id that I was given, and perhaps stored, is that of the event which arrives."""
    kept, observer = start()
    given: list[str | None] = []
    run = make_run()
    fail_by(
        observer,
        run,
        DeclinedError(),
        after=lambda error: given.append(sentry_sdk.capture_exception(error)),
    )
    assert given == [kept.events[0]["event_id"]] == [run.event_id]


@pytest.mark.parametrize("kind", [ValueError, DeclinedError])
def test_an_exception_that_is_handled_is_sent_as_it_is(start: Start, kind: type[Exception]) -> None:
    """I capture an exception and go on: its event says nothing of how the run ends."""
    kept, observer = start()
    run = make_run()
    with observer.run(run):
        try:
            raise kind("handled")  # noqa: TRY301  # no variable of a frame has it
        except kind as error:
            sentry_sdk.capture_exception(error)
        run.exception = other = DeclinedError("later")
        observer.failed(run)
    handled, failure = kept.events
    assert (handled["exception"]["values"][0]["value"], handled["tags"].get("celery.outcome")) == (
        "handled",
        None,
    )
    assert failure["tags"]["celery.outcome"] == "failed"
    assert run.event_id == failure["event_id"]
    assert other


def test_an_event_leaves_at_the_end_of_its_run_at_the_latest(start: Start) -> None:
    """I keep an exception in a list: its event is sent, with the run's tags."""
    kept, observer = start()
    errors: list[BaseException] = []
    with observer.run(make_run()):
        try:
            throw(DeclinedError())
        except DeclinedError as error:
            sentry_sdk.capture_exception(error)
            errors.append(error)
    assert [event["tags"]["celery.task_id"] for event in kept.events] == ["id-1"]


def test_a_copy_that_a_hook_was_given_is_the_failure(start: Start) -> None:
    """I capture in `on_failure`, where Celery gives me a copy of what it can't pickle."""
    kept, observer = start()
    run = make_run()

    class LocalError(Exception):
        def __init__(self, one: object, two: object) -> None:
            super().__init__(one)
            self.two = two

    with observer.run(run):
        try:
            throw(LocalError(1, lambda: None))
        except LocalError as error:
            copy = get_pickleable_exception(error)
            assert copy is not error  # noqa: PT017  # what the test is about
            copy.__traceback__ = error.__traceback__
            sentry_sdk.capture_exception(copy)
            run.outcome, run.exception = Outcome.FAILED, error
            observer.failed(run)
    assert [event["tags"]["celery.outcome"] for event in kept.events] == ["failed"]


def test_what_is_captured_after_the_failure_is_no_second_event(start: Start) -> None:
    """A receiver of `task_failure` logs the exception once more: there is one event."""
    kept, observer = start()
    run = make_run()
    with observer.run(run):
        try:
            throw(DeclinedError("no"))
        except DeclinedError as error:
            run.exception = error
            observer.failed(run)
            log.exception("task failed")
            sentry_sdk.capture_exception(error)
    assert len(kept.events) == 1


def test_a_failure_that_passes_through_eager_runs_is_one_event(start: Start) -> None:
    """An eager task captures its exception and raises it into its caller, which fails by it too."""
    kept, observer = start()
    outer, inner = make_run(task_id="outer"), make_run(task_id="inner", eager=True)
    with observer.run(outer):
        try:
            with observer.run(inner):
                try:
                    throw(DeclinedError())
                except DeclinedError as error:
                    sentry_sdk.capture_exception(error)
                    inner.exception = error
                    observer.failed(inner)
                    raise
        except DeclinedError as error:
            outer.exception = error
            observer.failed(outer)
    (event,) = kept.events
    assert event["tags"]["celery.task_id"] == "inner"
    assert outer.event_id == inner.event_id == event["event_id"]


def test_what_a_thread_captured_and_its_run_raises_is_one_event(start: Start) -> None:
    """A thread of my task captures an exception, and the task raises it."""
    kept, observer = start()
    run = make_run()
    found: list[BaseException] = []

    def work() -> None:
        try:
            throw(DeclinedError())
        except DeclinedError as error:
            sentry_sdk.capture_exception(error)
            found.append(error)

    with observer.run(run):
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        run.exception = found[0]
        observer.failed(run)
    assert [event["tags"].get("celery.outcome") for event in kept.events] == ["failed"]


def test_a_captured_soft_time_limit_groups_by_task(start: Start) -> None:
    """I log a soft time limit and raise it again: it is one issue for each task."""
    kept, observer = start()
    fail_by(observer, make_run(), SoftTimeLimitExceeded(), after=logs)
    assert kept.events[0]["fingerprint"] == ["celery", "SoftTimeLimitExceeded", "shop.pay"]


def test_a_captured_exception_can_be_pickled(start: Start) -> None:
    """My result backend pickles the exception that I have captured."""
    _, observer = start()
    with observer.run(make_run()):
        error = ValueError("no")
        sentry_sdk.capture_exception(error)
        copy = pickle.loads(pickle.dumps(error))  # noqa: S301  # our own
        assert (type(copy), copy.args) == (ValueError, ("no",))


def handle_one() -> None:
    try:
        throw(DeclinedError())
    except DeclinedError as error:
        sentry_sdk.capture_exception(error)


def test_nothing_is_kept_of_exceptions(start: Start) -> None:
    """A long task handles many exceptions: neither they nor their events gather in memory."""
    kept, observer = start()
    with observer.run(make_run()):
        for _ in range(50):
            handle_one()
        gc.collect()
        alive = [one for one in gc.get_objects() if type(one) is DeclinedError]
        assert len(alive) <= 1
    assert len(kept.events) == 50
