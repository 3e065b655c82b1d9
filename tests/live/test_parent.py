"""What only the worker's parent process sees: a run that died, or a message that never ran."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

import pytest

from taskobs.demo.receiver import Receiver
from taskobs.demo.wire import ReceivedEvent, ReceivedSpan
from tests.live.celery_process import Broker, LiveApp, Producer, Worker
from tests.live.process import LIMIT

DEATHS = [
    pytest.param("KILL", "SIGKILL", None, marks=pytest.mark.row("child dies", "SIGKILL")),
    pytest.param("SEGV", "SIGSEGV", None, marks=pytest.mark.row("child dies", "segfault")),
    pytest.param("exit", None, 7, marks=pytest.mark.row("child dies", "os._exit")),
]
"""How a child dies, the signal's name, and the exit code."""
SECRET = "pa55word-of-nobody"  # noqa: S105  # an argument that must not show up anywhere


@pytest.fixture(params=["redis", "rabbitmq"])
def shop(
    request: pytest.FixtureRequest, live: LiveApp, receiver: Receiver
) -> tuple[Worker, Producer, Receiver]:
    """A prefork worker and a producer."""
    names = {"redis": "redis_broker", "rabbitmq": "rabbit_broker"}
    broker: Broker = request.getfixturevalue(names[request.param])
    live.trouble_expected = True
    return live.worker(broker), live.producer(broker), receiver


def runs(receiver: Receiver, task_id: str) -> list[ReceivedSpan]:
    return [
        span
        for span in receiver.spans
        if span.name.startswith("run ") and span.attributes["messaging.message.id"] == task_id
    ]


def ran(receiver: Receiver, task_id: str) -> bool:
    """Wait for a run span of a task."""
    return receiver.wait_for(lambda _: bool(runs(receiver, task_id)), LIMIT)


def settle(worker: Worker, producer: Producer, receiver: Receiver, task_id: str) -> ReceivedSpan:
    """Stop the worker, so that whatever comes has come, and give the one run span."""
    assert ran(receiver, task_id)
    producer.close()
    worker.stop()
    [run] = runs(receiver, task_id)
    publish = next(
        span
        for span in receiver.spans
        if span.name.startswith("publish") and span.attributes["messaging.message.id"] == task_id
    )
    assert (run.trace_id, run.parent_id) == (publish.trace_id, publish.span_id)
    assert publish.status != "error"
    return run


def only_event(receiver: Receiver, run: ReceivedSpan) -> ReceivedEvent:
    [event] = receiver.events
    told: Any = event.data
    assert told["contexts"]["trace"]["trace_id"] == run.trace_id
    assert told["contexts"]["trace"]["span_id"] == run.span_id
    assert told["tags"]["celery.task_id"] == run.attributes["messaging.message.id"]
    assert told["tags"]["celery.outcome"] == run.attributes["celery.outcome"]
    assert run.attributes["sentry.event_id"] == event.event_id
    return event


@pytest.mark.row("hard time limit")
def test_a_hard_time_limit_is_one_lost_run(shop: tuple[Worker, Producer, Receiver]) -> None:
    """My task ran into its hard limit, and I see when it began, when it ended, and why."""
    worker, producer, receiver = shop
    task_id = producer.run("result = app.hard_limit.delay().id")
    run = settle(worker, producer, receiver, task_id)
    assert run.attributes["celery.outcome"] == "lost"
    assert run.status == "error"
    assert "TimeLimitExceeded" in str(run.attributes["error.type"])
    assert run.end_ns - run.start_ns >= 0.9e9
    only_event(receiver, run)


@pytest.mark.parametrize(("how", "signal", "code"), DEATHS)
def test_a_killed_child_is_one_lost_run(
    shop: tuple[Worker, Producer, Receiver], how: str, signal: str | None, code: int | None
) -> None:
    """The OOM killer took my task, and it is one run and one event, tagged as any other."""
    worker, producer, receiver = shop
    task_id = producer.run(f"result = app.die.delay({how!r}).id")
    run = settle(worker, producer, receiver, task_id)
    assert run.attributes["celery.outcome"] == "lost"
    assert run.attributes.get("celery.terminated.signal") == signal
    assert run.attributes.get("process.exit.code") == code
    only_event(receiver, run)


@pytest.mark.row("leaves")
def test_leaving_the_process_is_one_lost_run(shop: tuple[Worker, Producer, Receiver]) -> None:
    """My task called sys.exit(): before billiard 4.3 its code does not reach the parent."""
    worker, producer, receiver = shop
    task_id = producer.run("result = app.system_exit.delay().id")
    run = settle(worker, producer, receiver, task_id)
    assert run.attributes["celery.outcome"] == "lost"
    told = tuple(map(int, version("billiard").split(".")[:2])) >= (4, 3)
    assert run.attributes["process.exit.code"] == (3 if told else 0)
    only_event(receiver, run)


@pytest.mark.row("revoked, expired", "revoked by id")
def test_a_revoked_task_has_a_run_of_no_length(shop: tuple[Worker, Producer, Receiver]) -> None:
    """I revoked a task before its turn, and see that it never ran."""
    worker, producer, receiver = shop
    for countdown in (3, 30):  # a busy worker may run the first before it hears of the second
        publish = f"given = app.add.apply_async((1, 2), countdown={countdown})"
        task_id = producer.run(f"{publish}\nresult = given.id")
        worker.wait_received(task_id)
        producer.run("given.revoke()")
        assert ran(receiver, task_id)
        if runs(receiver, task_id)[0].attributes["celery.outcome"] == "revoked":
            break
    run = settle(worker, producer, receiver, task_id)
    assert run.attributes["celery.outcome"] == "revoked"
    assert run.status != "error"
    assert run.end_ns - run.start_ns < 2e9
    assert receiver.events == ()


@pytest.mark.row("terminated")
def test_a_task_revoked_while_running_names_the_signal(
    shop: tuple[Worker, Producer, Receiver],
) -> None:
    """I terminated a running task."""
    worker, producer, receiver = shop
    task_id = producer.run("given = app.slow.delay(300); result = given.id")
    producer.wait_active(task_id)
    producer.run("given.revoke(terminate=True)")
    run = settle(worker, producer, receiver, task_id)
    assert run.attributes["celery.outcome"] == "revoked"
    assert run.attributes["celery.terminated.signal"] == "SIGTERM"
    assert run.status != "error"
    assert receiver.events == ()


@pytest.mark.row("revoked, expired", "expired")
def test_an_expired_task_has_a_run_of_no_length(shop: tuple[Worker, Producer, Receiver]) -> None:
    """My task came too late to be of use, and I see it."""
    worker, producer, receiver = shop
    task_id = producer.run("result = app.add.apply_async((1, 2), expires=-1).id")
    run = settle(worker, producer, receiver, task_id)
    assert run.attributes["celery.outcome"] == "expired"
    assert run.status != "error"
    assert receiver.events == ()


@pytest.mark.row("unknown", "unknown name")
def test_an_unknown_task_is_one_event(shop: tuple[Worker, Producer, Receiver]) -> None:
    """A producer is newer than its worker, and I see which task is missing, not its arguments."""
    worker, producer, receiver = shop
    task_id = producer.run(f"result = app.app.send_task('no.such.task', ({SECRET!r},)).id")
    run = settle(worker, producer, receiver, task_id)
    assert run.attributes["celery.outcome"] == "unknown"
    assert run.attributes["celery.task_name"] == "no.such.task"
    assert run.status == "error"
    assert SECRET not in str(only_event(receiver, run).data)


@pytest.mark.row("unknown", "undecodable")
def test_an_undecodable_message_is_one_event(shop: tuple[Worker, Producer, Receiver]) -> None:
    """Somebody sends pickle to a worker that takes JSON."""
    worker, producer, receiver = shop
    task_id = producer.run("result = app.add.apply_async((1, 2), serializer='pickle').id")
    run = settle(worker, producer, receiver, task_id)
    assert run.attributes["celery.outcome"] == "unknown"
    assert run.status == "error"
    only_event(receiver, run)
