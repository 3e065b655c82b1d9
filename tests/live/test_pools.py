"""The outcome table on every pool: one worker each, with a producer, over Redis."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from taskobs import semconv
from taskobs.testing.receiver import Receiver
from tests.live.audit import AuditedShop, open_audited
from tests.live.celery_process import Broker, LiveApp
from tests.live.process import LIMIT, wait_until
from tests.live.shop import QUICK, tags, trace_of
from tests.live.test_messages import (
    test_baggage_headers_and_stamps_arrive,
    test_eager_failure_inside_a_run,
    test_eager_run_inside_a_run,
    test_sampled_out,
    test_task_protocol_1,
)
from tests.live.test_outcomes import (
    RETRIED,
    test_reject_and_requeue,
    test_result_that_cannot_be_stored,
    test_retries_exhausted,
    test_send_task_of_a_name_that_only_the_worker_knows,
)
from tests.live.test_parent import DEATHS
from tests.live.test_schedule import OVERDUE, entry, test_queue_latency_counts_from_the_eta

if TYPE_CHECKING:
    from collections.abc import Generator

    from taskobs.testing.wire import ReceivedSpan
    from tests.live import services

# These run on every pool here, and over each broker where they come from.
__all__ = [
    "test_baggage_headers_and_stamps_arrive",
    "test_eager_failure_inside_a_run",
    "test_eager_run_inside_a_run",
    "test_queue_latency_counts_from_the_eta",
    "test_reject_and_requeue",
    "test_result_that_cannot_be_stored",
    "test_retries_exhausted",
    "test_sampled_out",
    "test_send_task_of_a_name_that_only_the_worker_knows",
    "test_task_protocol_1",
]
CROWD = "tests.live.apps.crowd"
# pytest groups tests by a pool's position in the list: what a test leaves out must come last.
POOLS = [f"redis-{pool}" for pool in ("prefork", "spawn", "gevent", "eventlet", "threads", "solo")]
GARBLED = """
from kombu import Producer
headers = {"task": app.add.name, "id": "garbled"}
with app.app.connection_for_write() as connection, connection.channel() as channel:
    Producer(channel, routing_key="celery").publish(
        '["SECRET", ', headers=headers, content_type="application/json", content_encoding="utf-8"
    )
result = "garbled"
"""
SECRET = "pa55word-of-nobody"  # noqa: S105  # an argument that must not show up anywhere


def on(*pools: str) -> pytest.MarkDecorator:
    """Run a test on these pools alone: elsewhere it can't happen."""
    return pytest.mark.parametrize("pooled", [f"redis-{pool}" for pool in pools], indirect=True)


def pool_of(parameter: str) -> str:
    """Give the pool that a parameter names."""
    return parameter.removeprefix("redis-")


@pytest.fixture(scope="module", params=POOLS)
def pooled(
    request: pytest.FixtureRequest,
    redis_server: services.Redis,
    tmp_path_factory: pytest.TempPathFactory,
) -> Generator[AuditedShop]:
    """A worker with each pool in turn, and a producer."""
    pool, url = pool_of(request.param), redis_server.url()
    folder = tmp_path_factory.mktemp(request.param)
    with Receiver() as receiver, LiveApp(folder, receiver.endpoint, receiver.dsn) as app:
        app.measured = True
        yield open_audited(app, Broker("redis", url, url), receiver, pool)


@pytest.fixture(scope="module")
def each_shop(pooled: AuditedShop) -> AuditedShop:
    """What tests of other modules ask for."""
    return pooled


def outcome(span: ReceivedSpan) -> object:
    return span.attributes[semconv.CELERY_OUTCOME]


def one_run(shop: AuditedShop, task_id: str) -> ReceivedSpan:
    """Give the one run span of a task, which hangs on its one publish span, which is no error."""
    publish, run = shop.spans(task_id, 2)
    assert (publish.kind, run.kind) == ("producer", "consumer")
    assert (run.trace_id, run.parent_id) == (publish.trace_id, publish.span_id)
    assert (publish.parent_id, publish.status) == ("", "unset")
    return run


def one_event(shop: AuditedShop, task_id: str, run: ReceivedSpan) -> str:
    """Hold the one event of a task to its run; gives its JSON."""
    [event] = shop.events(task_id, 1)
    assert run.attributes[semconv.SENTRY_EVENT_ID] == event.event_id
    assert trace_of(event) == (run.trace_id, run.span_id)
    assert event.data["transaction"] == run.attributes[semconv.CELERY_TASK_NAME]
    assert tags(event)[semconv.TAG_OUTCOME] == outcome(run)
    assert tags(event)[semconv.TAG_HOSTNAME] == run.attributes[semconv.CELERY_HOSTNAME]
    return json.dumps(event.data)


def seconds(span: ReceivedSpan) -> float:
    return (span.end_ns - span.start_ns) / 1e9


@pytest.mark.row("success")
def test_success(pooled: AuditedShop) -> None:
    """I see the run of my task under its publish, and nothing in Sentry."""
    task_id = pooled.call("add.delay(1, 2)")
    run = one_run(pooled, task_id)
    assert (run.status, outcome(run)) == ("unset", "succeeded")
    assert pooled.events(task_id, 0) == []


@pytest.mark.row("exception")
def test_exception(pooled: AuditedShop) -> None:
    """I get one event, with every tag, that leads to the run's span."""
    task_id = pooled.call("fail.delay()")
    run = one_run(pooled, task_id)
    assert (run.status, run.message, outcome(run)) == ("error", "boom", "failed")
    assert "boom" in one_event(pooled, task_id, run)


@pytest.mark.row("throws")
def test_expected_exception(pooled: AuditedShop) -> None:
    """I announce an exception in ``throws``: it is noted, and alarms nobody."""
    task_id = pooled.call("expected.delay()")
    run = one_run(pooled, task_id)
    assert (run.status, outcome(run)) == ("unset", "failed")
    assert run.attributes[semconv.CELERY_EXPECTED] is True
    assert pooled.events(task_id, 0) == []


@pytest.mark.parametrize("task", RETRIED)
def test_retry_then_success(pooled: AuditedShop, task: str) -> None:
    """I see each attempt of a retried task beside the first."""
    task_id = pooled.call(f"{task}.delay(2)")
    spans = pooled.spans(task_id, 6)
    assert [span.parent_id for span in spans] == ["", *[spans[0].span_id] * 5]
    assert {span.status for span in spans} == {"unset"}
    assert [outcome(run) for run in spans[1::2]] == ["retried", "retried", "succeeded"]
    assert pooled.events(task_id, 0) == []


@pytest.mark.parametrize(
    ("task", "ends"),
    [
        pytest.param("ignore", "ignored", marks=pytest.mark.row("ignore, reject", "Ignore")),
        pytest.param("reject", "rejected", marks=pytest.mark.row("ignore, reject", "Reject")),
    ],
)
def test_ignore_and_reject(pooled: AuditedShop, task: str, ends: str) -> None:
    """I ignore a run, or reject its message, and neither is an error."""
    task_id = pooled.run(f"result = app.{task}.delay().id")
    run = one_run(pooled, task_id)
    assert (run.status, outcome(run)) == ("unset", ends)
    assert pooled.events(task_id, 0) == []


def never_ran(shop: AuditedShop, task_id: str, ends: str) -> None:
    run = one_run(shop, task_id)
    assert (run.status, outcome(run)) == ("unset", ends)
    assert seconds(run) < 2
    assert shop.events(task_id, 0) == []


def revoked(shop: AuditedShop, task: str, revoke: str) -> None:
    """Publish a task for later and revoke it meanwhile, and see that it never ran.

    A busy worker may run it before it hears of that: then another one, for much later.
    """
    for countdown in (3, 30):
        publish = f"given = {task}.apply_async(countdown={countdown})"
        task_id = shop.run(f"{publish}\nresult = given.id")
        shop.worker.wait_received(task_id)
        shop.run(revoke)
        if outcome(one_run(shop, task_id)) == "revoked":
            break
    never_ran(shop, task_id, "revoked")


@pytest.mark.row("revoked, expired", "revoked by id")
def test_revoked_before_its_run(pooled: AuditedShop) -> None:
    """I revoke a task before its turn, and see that it never ran."""
    revoked(pooled, "app.add.s(1, 2)", "given.revoke()")


@pytest.mark.row("revoked, expired", "revoked by a stamp")
def test_revoked_by_a_stamp(pooled: AuditedShop) -> None:
    """I revoke whatever carries a stamp, and see that it never ran."""
    pooled.run("task = app.add.s(1, 2)\ntask.stamp(order='42')")
    revoked(pooled, "task", "app.app.control.revoke_by_stamped_headers({'order': ['42']})")


@pytest.mark.row("revoked, expired", "expired")
def test_expired(pooled: AuditedShop) -> None:
    """My task came too late to be of use, and I see it."""
    task_id = pooled.run("result = app.add.apply_async((1, 2), expires=-1).id")
    never_ran(pooled, task_id, "expired")


@pytest.mark.row("unknown", "unknown name")
def test_unknown_task(pooled: AuditedShop) -> None:
    """A producer is newer than its worker, and I see which task is missing, not its arguments."""
    task_id = pooled.run(f"result = app.app.send_task('no.such.task', ({SECRET!r},)).id")
    run = one_run(pooled, task_id)
    assert (run.status, outcome(run)) == ("error", "unknown")
    assert run.attributes[semconv.CELERY_TASK_NAME] == "no.such.task"
    assert SECRET not in one_event(pooled, task_id, run)


@pytest.mark.row("unknown", "undecodable")
def test_undecodable_message(pooled: AuditedShop) -> None:
    """Somebody sends pickle to a worker that takes JSON."""
    task_id = pooled.run("result = app.add.apply_async((1, 2), serializer='pickle').id")
    run = one_run(pooled, task_id)
    assert (run.status, outcome(run)) == ("error", "unknown")
    one_event(pooled, task_id, run)


@pytest.mark.row("leaves")
@on("prefork", "spawn", "gevent", "eventlet", "threads")
def test_leaving_the_process(pooled: AuditedShop) -> None:
    """My task calls sys.exit(), which ends a pool's process, and elsewhere the run alone."""
    task_id = pooled.run("result = app.system_exit.delay().id")
    run = one_run(pooled, task_id)
    assert (run.status, outcome(run)) == ("error", "lost")
    one_event(pooled, task_id, run)


@pytest.mark.row("unknown", "cut short")
def test_garbled_message(pooled: AuditedShop) -> None:
    """Somebody cuts a message short, and I see which task it was for."""
    task_id = pooled.run(GARBLED.replace("SECRET", SECRET))
    [run] = pooled.spans(task_id, 1)
    assert (run.name, run.kind) == (f"run {pooled.live.task('add')}", "consumer")
    assert (run.status, outcome(run)) == ("error", "unknown")
    assert SECRET not in one_event(pooled, task_id, run)


@pytest.mark.row("soft time limit")
@on("prefork", "spawn")
def test_soft_time_limit(pooled: AuditedShop) -> None:
    """I get one event of a task that ran into its soft limit."""
    task_id = pooled.call("soft_limit.delay()")
    run = one_run(pooled, task_id)
    assert (run.status, outcome(run)) == ("error", "failed")
    assert "SoftTimeLimitExceeded" in one_event(pooled, task_id, run)


@pytest.mark.row("hard time limit")
@on("prefork", "spawn", "gevent")
def test_hard_time_limit(pooled: AuditedShop) -> None:
    """My task ran into its hard limit, and I see when it began, when it ended, and why."""
    task_id = pooled.call("hard_limit.delay()")
    run = one_run(pooled, task_id)
    assert (run.status, outcome(run)) == ("error", "lost")
    kinds = ("billiard.exceptions.TimeLimitExceeded", "gevent.timeout.Timeout")
    assert run.attributes[semconv.ERROR_TYPE] in kinds
    assert 0.9 < seconds(run) < 29
    one_event(pooled, task_id, run)


@pytest.mark.parametrize(("how", "signal", "code"), DEATHS)
@on("prefork", "spawn")
def test_killed_child(pooled: AuditedShop, how: str, signal: str | None, code: int | None) -> None:
    """The OOM killer took my task, and it is one run and one event, tagged as any other."""
    task_id = pooled.run(f"result = app.die.delay({how!r}).id")
    run = one_run(pooled, task_id)
    assert (run.status, outcome(run)) == ("error", "lost")
    assert run.attributes.get(semconv.CELERY_SIGNAL) == signal
    assert run.attributes.get(semconv.PROCESS_EXIT_CODE) == code
    one_event(pooled, task_id, run)


@pytest.mark.row("terminated")
@on("prefork", "spawn", "gevent", "eventlet")
def test_revoked_while_running(pooled: AuditedShop) -> None:
    """I terminate a running task: it is no error; greenlets, unlike processes, get no signal."""
    task_id = pooled.run("given = app.slow.delay(300); result = given.id")
    pooled.producer.wait_active(task_id)
    pooled.run("given.revoke(terminate=True)")
    run = one_run(pooled, task_id)
    assert (run.status, outcome(run)) == ("unset", "revoked")
    assert run.attributes[semconv.CELERY_REASON] == "terminated"
    inline = run.attributes[semconv.PROCESS_PID] == pooled.worker.pid
    assert run.attributes.get(semconv.CELERY_SIGNAL) == (None if inline else "SIGTERM")
    assert seconds(run) < 280
    assert pooled.events(task_id, 0) == []


@pytest.mark.row("beat", "beat")
def test_tick_of_beat(pooled: AuditedShop) -> None:
    """My schedule comes round, and beat's publish and the run are a trace."""
    beat = pooled.live.beat(pooled.broker, "-l", "DEBUG", env={**QUICK, **entry(OVERDUE)})
    beat.wait_log("sent. id->")
    beat.wait_idle()
    assert beat.stop() == 0
    [tick] = [s for s in pooled.receiver.spans if semconv.CELERY_SCHEDULE_ENTRY in s.attributes][:1]
    task_id = str(tick.attributes[semconv.MESSAGING_MESSAGE_ID])
    run = one_run(pooled, task_id)
    assert (run.status, outcome(run)) == ("unset", "succeeded")
    assert pooled.events(task_id, 0) == []


def test_nothing_else_came(pooled: AuditedShop) -> None:
    """I stop the worker, and all that it sent are the spans and events of the tests above."""
    pooled.audit()


@pytest.mark.row("stops", "warm")
@pytest.mark.parametrize("parameter", POOLS)
def test_a_warm_stop_loses_nothing(
    live: LiveApp, receiver: Receiver, redis_broker: Broker, parameter: str
) -> None:
    """I stop the worker while tasks run: when it has ended, their spans and events are there."""
    failed, folders = live.task("hold_and_fail", app=CROWD), (live.folder / "a", live.folder / "b")
    for folder in folders:
        folder.mkdir()
    (folders[0] / "go").touch()
    worker = live.worker(redis_broker, pool=pool_of(parameter), app=CROWD)
    producer = live.producer(redis_broker, app=CROWD)
    ended, running = producer.run(
        f"first, second = {list(map(str, folders))!r}\n"
        "ended = app.hold_and_fail.delay(first); ended.get(timeout=90, propagate=False)\n"
        "result = ended.id, app.hold_and_fail.delay(second).id"
    )
    assert wait_until((folders[1] / running).exists, timeout=LIMIT), worker.tail()
    if pool_of(parameter) in ("prefork", "spawn"):  # what is not known to have begun goes back
        producer.wait_active(running)
    assert producer.close() == 0
    worker.signal("TERM")
    worker.wait_log("Warm shutdown")
    (folders[1] / "go").touch()
    assert worker.wait() == 0
    # Each child sends its own when it ends, and either may be the first.
    runs = [span for span in receiver.spans if span.name == f"run {failed}"]
    assert sorted(str(run.attributes[semconv.MESSAGING_MESSAGE_ID]) for run in runs) == sorted(
        [ended, running]
    ), worker.tail()
    assert [outcome(run) for run in runs] == ["failed", "failed"]
    assert sorted(trace_of(event) for event in receiver.events) == sorted(
        (run.trace_id, run.span_id) for run in runs
    )


@pytest.mark.row("leaves")
@pytest.mark.parametrize("parameter", ["redis-solo"])
def test_leaving_the_process_where_there_is_one(
    live: LiveApp, receiver: Receiver, redis_broker: Broker, parameter: str
) -> None:
    """My task calls sys.exit() in a worker that has no pool: that ends, and tells of the run."""
    shop = open_audited(live, redis_broker, receiver, pool_of(parameter))
    task_id = shop.run("result = app.system_exit.delay().id")
    assert shop.worker.wait() != 0
    run = one_run(shop, task_id)
    assert (run.status, outcome(run)) == ("error", "lost")
    one_event(shop, task_id, run)


@pytest.mark.row("revoked, expired", "revoked by id")
@pytest.mark.parametrize("parameter", ["redis-threads"])
def test_terminated_while_it_waits_for_a_thread(
    live: LiveApp, receiver: Receiver, redis_broker: Broker, parameter: str
) -> None:
    """I terminate a task that waits in the worker for a thread, and see that it never ran."""
    shop = open_audited(live, redis_broker, receiver, pool_of(parameter))
    folder = live.folder / "held"
    folder.mkdir()
    *running, task_id = shop.run(
        f"given = *(app.hold.delay({str(folder)!r}) for _ in range(2)), app.add.delay(1, 2)\n"
        "result = [sent.id for sent in given]"
    )
    shop.worker.wait_received(task_id)
    revoke = "app.app.control.revoke(given[-1].id, terminate=True, reply=True, timeout=90, limit=1)"
    assert "ok" in str(shop.run(f"result = {revoke}"))
    (folder / "go").touch()
    for other in running:
        assert outcome(one_run(shop, other)) == "succeeded"
    never_ran(shop, task_id, "revoked")
    shop.audit()
