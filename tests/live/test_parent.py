"""What only the worker's parent process sees: a run that died, or a message that never ran."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

import pytest
from celery.worker.consumer import Consumer
from celery.worker.request import Request

from taskobs.testing.receiver import Receiver
from taskobs.testing.wire import ReceivedEvent, ReceivedSpan
from tests.live.celery_process import Broker, LiveApp, Producer, Worker
from tests.live.process import LIMIT, wait_until
from tests.live.shop import QUICK, tags

PARTING = "tests.live.apps.parting"
LATE = "tests.live.apps.late"

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


RELAYS = [pytest.param({"TASKOBS_RELAY": on}, id=f"relay-{on}") for on in ("1", "0")]


def begin(live: LiveApp, broker: Broker, env: Mapping[str, str]) -> tuple[Worker, Producer]:
    """Start a prefork worker and a producer of tasks that end in odd ways."""
    settings = {**QUICK, **env}
    return live.worker(broker, app=PARTING, env=settings), live.producer(broker, app=PARTING)


@pytest.mark.parametrize("env", RELAYS)
@pytest.mark.parametrize("how", ["cancelled", "closed", "unpicklable"])
def test_what_is_no_exception_is_one_lost_run(
    live: LiveApp, receiver: Receiver, redis_broker: Broker, env: Mapping[str, str], how: str
) -> None:
    """My task lets a `CancelledError` out, which ends the child or not: I hear of it, once."""
    worker, producer = begin(live, redis_broker, env)
    task_id = producer.run(f"result = app.gives_up.delay({how!r}).id")
    run = settle(worker, producer, receiver, task_id)
    assert (run.status, run.attributes["celery.outcome"]) == ("error", "lost")
    only_event(receiver, run)


@pytest.mark.skipif(
    not hasattr(Request, "_success_was_stored"), reason="Celery 5.7 is the first to ask"
)
@pytest.mark.parametrize("env", RELAYS)
def test_a_run_that_has_succeeded_is_not_lost(
    live: LiveApp, receiver: Receiver, redis_broker: Broker, env: Mapping[str, str]
) -> None:
    """My child is killed once its task has succeeded: Celery calls it a success, and I see one."""
    worker, producer = begin(live, redis_broker, env)
    task_id = producer.run("given = app.die_after.delay(); result = given.id")
    worker.wait_log("succeeded before the worker was lost")
    assert producer.run("result = given.get(timeout=90)") == "done"
    run = settle(worker, producer, receiver, task_id)
    assert (run.status, run.attributes["celery.outcome"]) == ("unset", "succeeded")
    assert receiver.events == ()


CANCELS = {"worker_cancel_long_running_tasks_on_connection_loss": True}
HANG_UP = """
from redis import Redis
Redis.from_url(app.app.conf.broker_url).client_kill_filter(_type="normal", skipme=True)
Redis.from_url(app.app.conf.broker_url).client_kill_filter(_type="pubsub", skipme=True)
result = given.get(timeout=90)
"""


@pytest.mark.parametrize("env", RELAYS)
def test_a_run_that_celery_cancels_is_reported(
    live: LiveApp, receiver: Receiver, redis_broker: Broker, env: Mapping[str, str]
) -> None:
    """My worker loses its broker and ends what it runs: I see that run, and the next delivery."""
    env = {**env, "APP_CONFIG": json.dumps(CANCELS)}
    worker, producer = begin(live, redis_broker, env)
    folder = live.folder / "place"
    task_id = producer.run(f"given = app.stay.delay({str(folder)!r}); result = given.id")
    assert wait_until(folder.exists, timeout=LIMIT)
    assert producer.run(HANG_UP) == "done"
    assert receiver.wait_for(lambda _: len(runs(receiver, task_id)) == 2, LIMIT)
    producer.close()
    worker.stop()
    cancelled, again = sorted(runs(receiver, task_id), key=lambda run: run.start_ns)
    assert (cancelled.status, cancelled.attributes["celery.outcome"]) == ("unset", "retried")
    assert cancelled.attributes["celery.reason"] == "cancelled by Celery"
    assert cancelled.end_ns > cancelled.start_ns
    assert again.attributes["celery.outcome"] == "succeeded"
    assert again.attributes["celery.redelivered"] is True
    of_tasks = [event for event in receiver.events if tags(event).get("celery.task_id")]
    assert of_tasks == []


@pytest.mark.skipif(
    not any(name.startswith("cancel_a") for name in vars(Consumer)),
    reason="Celery 5.5 is the first to cancel what runs",
)
@pytest.mark.parametrize("env", RELAYS)
def test_a_run_that_a_cold_stop_ends_is_lost(
    live: LiveApp, receiver: Receiver, redis_broker: Broker, env: Mapping[str, str]
) -> None:
    """I stop my worker cold: what it ran is lost, also where Celery calls that a retry."""
    worker, producer = begin(live, redis_broker, env)
    task_id = producer.run("result = app.slow.delay(300).id")
    producer.wait_active(task_id)
    worker.stop("QUIT")
    producer.close()
    [run] = runs(receiver, task_id)
    assert (run.status, run.attributes["celery.outcome"]) == ("error", "lost")
    assert [event for event in receiver.events if tags(event).get("celery.task_id")] == []


@pytest.mark.parametrize("opens", ["late", "again"])
@pytest.mark.parametrize("pool", ["prefork", "solo"])
def test_a_session_that_begins_in_the_worker_hears_of_what_never_ran(
    live: LiveApp, receiver: Receiver, redis_broker: Broker, opens: str, pool: str
) -> None:
    """I call `init()` at `worker_init`, or once more later: nothing that never ran is missing."""
    env = {**QUICK, "APP_OPENS": opens, "TASKOBS_RELAY": "0"}
    worker = live.worker(redis_broker, pool=pool, app=LATE, env=env)
    producer = live.producer(redis_broker, app=LATE)
    sends = "app.app.send_task('no.such.task'), app.add.apply_async((1, 2), expires=-5)"
    ids = producer.run(f"result = [one.id for one in ({sends})]")
    for task_id, outcome in zip(ids, ("unknown", "expired"), strict=True):
        assert ran(receiver, task_id)
        [run] = runs(receiver, task_id)
        assert run.attributes["celery.outcome"] == outcome
    assert receiver.wait_for(lambda one: len(one.events) == 1, LIMIT)
    producer.close()
    worker.stop()
    assert [len(runs(receiver, task_id)) for task_id in ids] == [1, 1]
