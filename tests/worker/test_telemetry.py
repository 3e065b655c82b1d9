"""What tests read of tasks that an embedded worker of the whole session runs."""

from __future__ import annotations

import importlib
import threading
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager
from typing import Any

import pytest
from celery import Celery, chord
from celery.contrib.testing.worker import start_worker

from taskobs.testing import NotRecordedError, Telemetry
from taskobs.testing.sources.process import TestProcess
from tests.support.recording import PrivateApp
from tests.worker.conftest import current_app_kept

Recorded = Callable[..., AbstractContextManager[Telemetry]]
PATIENCE = 60.0


@pytest.fixture(scope="module")
def recorded() -> Recorded:
    """Give what the fixture does for each test."""
    return TestProcess().recorded


@pytest.fixture
def telemetry(app: Celery, recorded: Recorded) -> Generator[Telemetry]:
    """Give the telemetry of one test, whose worker was there before."""
    assert app
    with recorded(timeout=PATIENCE) as telemetry:
        yield telemetry


def test_a_run_of_the_worker_is_waited_for(telemetry: Telemetry, app: Celery) -> None:
    """I call `delay()` and ask for the run at once: it is there."""
    result = app.tasks["boom"].delay()
    run = telemetry.run("boom")
    assert (run.outcome, run.eager, run.task_id) == ("failed", False, result.id)
    assert run.queue_latency is not None
    assert telemetry.trace_of(result).tree == "publish boom\n  run boom"
    assert telemetry.event("boom").exception
    assert telemetry.publish("boom").span_id == run.parent_id


@pytest.mark.parametrize("time", ["first", "second"])
def test_retries_and_their_metrics_are_exact(telemetry: Telemetry, app: Celery, time: str) -> None:
    """I see each attempt, and each test counts its own, though the worker is the same."""
    assert time
    app.tasks["flaky"].delay(2)
    outcomes = [run.outcome for run in telemetry.runs("flaky")]
    assert outcomes == ["retried", "retried", "succeeded"]
    assert telemetry.run("flaky", attempt=3).outcome == "succeeded"
    of_task = {"celery.task_name": "flaky"}
    assert telemetry.metric("celery.task.received", of_task).value == 3
    assert telemetry.metric("celery.task.published", of_task).value == 3
    succeeded = {**of_task, "celery.outcome": "succeeded"}
    assert telemetry.metric("celery.task.duration", succeeded).count == 1


def test_a_chord_is_one_trace(telemetry: Telemetry, app: Celery) -> None:
    """I call a chord, and its callback is in the trace when I ask for it."""
    add, total = app.tasks["add"], app.tasks["total"]
    chord([add.s(1, 1), add.s(2, 2)])(total.s()).get(timeout=PATIENCE, interval=0.005)
    found = telemetry.trace_of(telemetry.run("total"))
    assert sorted(run.task for run in found.runs) == ["add", "add", "total"]


def test_a_run_of_an_earlier_test_is_left_out(app: Celery, recorded: Recorded) -> None:
    """My test ends while its task still runs: the next test sees nothing of that."""
    begun, go_on, ended = threading.Event(), threading.Event(), threading.Event()

    @app.task(name="slow")
    def slow() -> None:
        begun.set()
        assert go_on.wait(PATIENCE)
        app.tasks["boom"].delay()

    @app.task(name="last")
    def last() -> None:
        ended.set()

    update_strategies(app)
    with recorded(timeout=0.05):
        slow.delay()
        assert begun.wait(PATIENCE)
    last.delay()  # between the tests
    with recorded(timeout=PATIENCE) as telemetry:
        app.tasks["add"].delay(1, 2)
        go_on.set()
        telemetry.wait()
        assert ended.wait(PATIENCE)
        assert [run.task for run in telemetry.runs()] == ["add"]
        assert telemetry.events == ()
        assert {span.name for span in telemetry.spans} == {"publish add", "run add"}
        with pytest.raises(NotRecordedError, match=r"before the fixture was set up:\n  last, id "):
            telemetry.run("last")


def update_strategies(app: Celery) -> None:
    """Have the worker, which has started before, run new tasks of its app."""
    from taskobs.testing.sources.session import embedded_workers

    [worker] = [one for one in embedded_workers() if one.app is app]
    worker.consumer.update_strategies()


@pytest.mark.parametrize("pool", ["solo", "threads"])
def test_a_worker_that_starts_and_stops_in_a_test(recorded: Recorded, pool: str) -> None:
    """I start the worker in my test, and ask when it has stopped: nothing is missing.

    Celery sends a task of its own to see whether the worker runs, which is not mine.
    """
    importlib.import_module("celery.contrib.testing.tasks")
    own = PrivateApp("own", broker="memory://", backend="cache+memory://", set_as_current=False)
    own.conf.update(
        broker_transport_options={"polling_interval": 0.01},
        task_default_queue="own",
        worker_hijack_root_logger=False,
    )

    @own.task(name="own.add")
    def add(x: int, y: int) -> int:
        return x + y

    limits: Any = {"ping_task_timeout": PATIENCE, "shutdown_timeout": PATIENCE}
    with recorded(timeout=PATIENCE) as telemetry:
        with current_app_kept(), start_worker(own, pool=pool, **limits):
            add.delay(1, 2)
            telemetry.wait()
        assert [run.task for run in telemetry.runs()] == ["own.add"]
        assert [one.task for one in telemetry.publishes()] == ["own.add"]
        assert telemetry.run().queue == "own"
        of_task = {"celery.task_name": "own.add", "celery.outcome": "succeeded"}
        assert telemetry.metric("celery.task.duration", of_task).count == 1
    own.close()
