"""What an app that uses Sentry itself sends: each failure once, tagged, without arguments."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, cast

import pytest

from taskobs import semconv
from tests.live.process import LIMIT
from tests.live.shop import QUICK, Shop, tags, trace_of

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from taskobs.testing.receiver import Receiver
    from taskobs.testing.wire import ReceivedEvent, ReceivedSpan
    from tests.live.celery_process import Broker, LiveApp

ERRORS = "tests.live.apps.errors"
CARD = "4111-1111-1111-1111"
POOLS = ("prefork", "threads", "gevent")


def open_errors(
    live: LiveApp,
    broker: Broker,
    receiver: Receiver,
    *,
    pool: str = "prefork",
    options: Mapping[str, object] | None = None,
    **env: str,
) -> Shop:
    """Start a worker and a producer of an app that calls ``sentry_sdk.init()`` with ``options``."""
    full = {
        **QUICK,
        "APP_SENTRY_DSN": receiver.dsn,
        "APP_SENTRY": json.dumps(options or {}),
        **env,
    }
    worker = live.worker(broker, pool=pool, app=ERRORS, env=full)
    return Shop(live, broker, receiver, worker, live.producer(broker, app=ERRORS, env=full))


def closed(shop: Shop) -> tuple[ReceivedEvent, ...]:
    """Stop everything, and give all events that ever came."""
    assert shop.producer.close() == 0
    assert shop.worker.stop() == 0
    return shop.receiver.events


def run_of(shop: Shop, task_id: str) -> ReceivedSpan:
    """Give the run of a task."""
    return shop.spans(task_id, 2)[1]


SELF_CAPTURED = (
    "logs_and_raises",
    "captures_and_raises",
    "captured_by_its_hook",
    "captured_by_its_call",
)


@pytest.mark.parametrize("pool", POOLS)
def test_a_failure_that_a_task_captures_itself_is_one_event_of_its_run(
    live: LiveApp, receiver: Receiver, redis_broker: Broker, pool: str
) -> None:
    """I log, capture, and raise: one event each, with its outcome, that the span leads to."""
    shop = open_errors(live, redis_broker, receiver, pool=pool)
    ids = [shop.call(f"{name}.delay()") for name in SELF_CAPTURED]
    runs = [run_of(shop, task_id) for task_id in ids]
    events = closed(shop)
    assert sorted(str(tags(event)[semconv.TAG_TASK_ID]) for event in events) == sorted(ids)
    assert {tags(event)[semconv.TAG_OUTCOME] for event in events} == {"failed"}
    by_id = {event.event_id: event for event in events}
    for run in runs:
        event = by_id[str(run.attributes[semconv.SENTRY_EVENT_ID])]
        assert tags(event)[semconv.TAG_TASK_ID] == run.attributes[semconv.MESSAGING_MESSAGE_ID]
        assert trace_of(event)[0] == run.trace_id


def test_a_handled_exception_arrives_while_its_task_still_runs(
    live: LiveApp, receiver: Receiver, redis_broker: Broker, tmp_path: Path
) -> None:
    """My long task captures what it handles; a kill, hours later, loses nothing of that."""
    shop = open_errors(live, redis_broker, receiver)
    task_id = shop.run(f"result = app.handles_and_holds.delay({str(tmp_path)!r}).id")
    (event,) = shop.events(task_id, 1)
    assert semconv.TAG_OUTCOME not in tags(event)
    (tmp_path / "go").touch()
    assert len(closed(shop)) == 1


@pytest.mark.parametrize("pool", POOLS)
def test_what_threads_of_a_run_capture_is_on_its_trace(
    live: LiveApp, receiver: Receiver, redis_broker: Broker, pool: str
) -> None:
    """Messages from a thread and an executor of my task lead to the run's span."""
    shop = open_errors(live, redis_broker, receiver, pool=pool)
    task_id = shop.call("uses_threads.delay()")
    run = run_of(shop, task_id)
    events = closed(shop)
    assert {tags(event).get(semconv.TAG_TASK_ID) for event in events} == {task_id}
    assert [trace_of(event) for event in events] == [(run.trace_id, run.span_id)] * 2


@pytest.mark.parametrize("pool", POOLS)
def test_each_run_has_a_trace_of_its_own_without_spans(
    live: LiveApp, receiver: Receiver, redis_broker: Broker, pool: str
) -> None:
    """I have a DSN alone: what a run and the task that it calls report is a trace of theirs."""
    del live.env["OTEL_EXPORTER_OTLP_ENDPOINT"]
    worker = live.worker(redis_broker, pool=pool, app=ERRORS)
    producer = live.producer(redis_broker, env={"TASKOBS_ENABLED": "0"})
    producer.run(f"for _ in range(3): app.app.send_task('{ERRORS}.fails_and_calls')")
    assert receiver.wait_for(lambda r: len(r.events) >= 6, LIMIT), worker.tail()
    worker.stop()
    assert len(receiver.events) == 6
    traces = {
        root: {trace_of(event) for event in receiver.events if of(event) == root}
        for root in map(of, receiver.events)
    }
    assert len(traces) == 3
    assert all(len({trace_id for trace_id, _ in found}) == 1 for found in traces.values())
    assert len({trace_of(event)[0] for event in receiver.events}) == 3
    assert len({trace_of(event)[1] for event in receiver.events}) == 6


def of(event: ReceivedEvent) -> str:
    """Give the id of the task that a workflow began with."""
    return str(tags(event)[semconv.TAG_ROOT_ID])


CHANNELS: dict[str, dict[str, object]] = {
    "events": {},
    "logs": {"enable_logs": True},
    "events of INFO": {"event_level": 20},
    "transactions": {"traces_sample_rate": 1.0},
}


@pytest.mark.parametrize("channel", CHANNELS)
def test_no_channel_of_sentrys_carries_arguments(
    live: LiveApp, receiver: Receiver, redis_broker: Broker, channel: str
) -> None:
    """With logs, transactions, INFO events and personal data allowed: no argument, no result."""
    options = {"send_default_pii": True, **CHANNELS[channel]}
    shop = open_errors(live, redis_broker, receiver, options=options)
    for call in ("gives_up.delay(%r)", "echo_and_log.delay(%r)", "calls_add.delay(%r, '')"):
        shop.call(call % CARD)
    closed(shop)
    items = [json.dumps(item.data) for item in receiver.items]
    events = [json.dumps(event.data) for event in receiver.events]
    if channel == "logs":
        assert any("succeeded in" in item for item in items)
    if channel == "events of INFO":
        assert any("] received" in event for event in events)
    assert any("Can't retry" in event for event in events)
    assert not [found for found in (*items, *events) if CARD in found]


def test_a_name_that_is_not_utf8_arrives(
    live: LiveApp, receiver: Receiver, redis_broker: Broker
) -> None:
    """The message of an exception has half of a surrogate pair; Sentry gets a question mark."""
    shop = open_errors(live, redis_broker, receiver)
    (event,) = shop.events(shop.call("fails_by_surrogates.delay()"), 1)
    assert value_of(event) == "caf?.txt"
    closed(shop)


@pytest.mark.parametrize("characters", [1_100_000, 5_000_000])
def test_an_event_is_cut_to_what_servers_take(
    live: LiveApp, receiver: Receiver, redis_broker: Broker, characters: int
) -> None:
    """An exception with a message of megabytes arrives, cut, and the log says so once."""
    shop = open_errors(live, redis_broker, receiver)
    for _ in range(2):
        (event,) = shop.events(shop.call(f"fails_at_length.delay({characters})"), 1)
        assert len(json.dumps(event.data)) < 1_000_000
        assert value_of(event).startswith("xxx")
    closed(shop)
    assert 1 <= shop.worker.log.count("was cut to") <= 2  # pool children


def test_the_full_stack_can_be_asked_for(
    live: LiveApp, receiver: Receiver, redis_broker: Broker
) -> None:
    """With `add_full_stack=True` my failures arrive."""
    shop = open_errors(live, redis_broker, receiver, options={"add_full_stack": True})
    (event,) = shop.events(shop.call("fails_with.delay('boom')"), 1)
    assert value_of(event) == "boom"
    closed(shop)


def test_tags_are_kept_where_a_processor_makes_a_list_of_them(
    live: LiveApp, receiver: Receiver, redis_broker: Broker
) -> None:
    """My event processor writes tags as pairs: its own and the run's arrive."""
    shop = open_errors(live, redis_broker, receiver, APP_TAGS_AS_PAIRS="1")
    task_id = shop.call("fails_with.delay('boom')")
    (event,) = closed(shop)
    found = dict(cast("list[tuple[str, str]]", event.data["tags"]))
    assert (found["mine"], found[semconv.TAG_TASK_ID]) == ("yes", task_id)
    assert found[semconv.TAG_OUTCOME] == "failed"


@pytest.mark.parametrize("how", ["exc_info", "text"])
@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_a_receiver_that_logs_each_failure_makes_no_second_event(
    live: LiveApp, receiver: Receiver, redis_broker: Broker, pool: str, how: str
) -> None:
    """I log failures and lost runs by `task_failure`, as django-structlog does: one event each."""
    shop = open_errors(live, redis_broker, receiver, pool=pool, APP_STRUCTURED=how)
    ids = [shop.call("fails_with.delay('card declined')")]
    if pool == "prefork":
        ids.append(shop.call("die.delay()"))
    for task_id in ids:
        shop.events(task_id, 1)
    events = closed(shop)
    assert sorted(str(tags(event).get(semconv.TAG_TASK_ID)) for event in events) == sorted(ids)


def value_of(event: ReceivedEvent) -> str:
    """Give what the exception of an event says."""
    data = cast("dict[str, Any]", event.data)
    return str(data["exception"]["values"][-1]["value"])


def test_interception_of_logs_makes_no_second_event(
    live: LiveApp, receiver: Receiver, redis_broker: Broker
) -> None:
    """I pass all logs on to loguru, which Sentry listens to: a killed child is one event."""
    shop = open_errors(live, redis_broker, receiver, APP_LOGURU="1")
    ids = [shop.call(call) for call in ("die.delay()", "fails_with.delay('no funds')")]
    for task_id in ids:
        shop.events(task_id, 1)
    assert sorted(str(tags(event).get(semconv.TAG_TASK_ID)) for event in closed(shop)) == sorted(
        ids
    )
