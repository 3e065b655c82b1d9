"""What beat publishes is a trace of its own, and each tick can be a check-in at Sentry Crons."""

from __future__ import annotations

import json
from typing import Any

import pytest

from taskobs import semconv
from taskobs.testing.receiver import Receiver
from tests.live.celery_process import SHOP, Broker, LiveApp
from tests.live.process import LIMIT
from tests.live.shop import QUICK
from tests.live.test_schedule import REDBEAT

OWN = "tests.live.apps.own_sentry"
LONG_AGO = "2020-01-01T00:00:00+00:00"
"""An entry that ran last then is due at once, whatever its interval."""


def schedule(**entries: dict[str, Any]) -> dict[str, str]:
    """Give the environment of an app whose schedule has these entries, due at once."""
    told = {
        name: {
            "last_run_at": LONG_AGO,
            "schedule": 7200,
            **entry,
            "task": f"{SHOP}.{entry['task']}",
        }
        for name, entry in entries.items()
    }
    return {**QUICK, "APP_BEAT": json.dumps(told)}


def with_crons(env: dict[str, str], **settings: object) -> dict[str, str]:
    return {**env, "APP_INIT": json.dumps({"crons": True, **settings})}


def check_ins(receiver: Receiver, slug: str) -> list[Any]:
    return [
        item.data
        for item in receiver.items
        if item.kind == "check_in" and item.data["monitor_slug"] == slug
    ]


def closed(receiver: Receiver, slug: str, number: int = 2) -> list[str]:
    """Wait for the check-ins of one tick; gives what was told, in the order of the states."""
    assert receiver.wait_for(lambda _: len(check_ins(receiver, slug)) >= number, LIMIT), (
        receiver.items
    )
    found = check_ins(receiver, slug)
    assert len({one["check_in_id"] for one in found}) == 1
    return sorted(str(one["status"]) for one in found)


def test_each_tick_is_a_trace_of_its_own(broker: Broker, live: LiveApp, receiver: Receiver) -> None:
    """I see what beat sent, when, for which entry, and the run that came of it."""
    env = schedule(often={"task": "add", "args": [1, 2], "schedule": 1})
    live.worker(broker, env=env)
    beat = live.beat(broker, "-l", "DEBUG", env=env)
    assert receiver.wait_for(lambda r: sum(s.name.startswith("run ") for s in r.spans) >= 3, LIMIT)
    assert beat.stop_between_ticks() == 0
    ticks = [span for span in receiver.spans if span.name.startswith("publish ")]
    assert len({tick.trace_id for tick in ticks}) == len(ticks) >= 3
    for tick in ticks:
        assert (tick.parent_id, tick.kind, tick.status) == ("", "producer", "unset")
        assert tick.attributes[semconv.CELERY_SCHEDULE_ENTRY] == "often"
    runs = [span for span in receiver.spans if span.name.startswith("run ")]
    assert {run.parent_id for run in runs} <= {tick.span_id for tick in ticks}
    assert {run.attributes[semconv.CELERY_SCHEDULE_ENTRY] for run in runs} == {"often"}
    assert not receiver.events


def test_an_embedded_beat_is_seen_to_its_end(
    redis_broker: Broker, live: LiveApp, receiver: Receiver
) -> None:
    """I run `celery worker -B`, stop it, and the last tick has arrived too."""
    env = schedule(once={"task": "add", "args": [1, 2]})
    del env["OTEL_BSP_SCHEDULE_DELAY"]  # so that spans leave at the end only
    schedule_file = str(live.folder / "embedded.schedule")
    worker = live.worker(redis_broker, "-B", "-s", schedule_file, "-l", "DEBUG", env=env)
    worker.wait_log(f"{SHOP}.add sent. id->")  # a signal in the middle of a send cuts it short
    worker.wait_log("succeeded in")
    assert worker.stop() == 0
    [tick] = [span for span in receiver.spans if span.name.startswith("publish ")]
    [run] = [span for span in receiver.spans if span.name.startswith("run ")]
    assert (run.trace_id, run.parent_id) == (tick.trace_id, tick.span_id)
    assert tick.attributes[semconv.PROCESS_PID] not in (
        worker.pid,
        run.attributes[semconv.PROCESS_PID],
    )


def test_check_ins_follow_a_tick_to_its_last_attempt(
    redis_broker: Broker, live: LiveApp, receiver: Receiver
) -> None:
    """My nightly job failed once and went well at last: the monitor stays green."""
    env = schedule(
        well={"task": "add", "args": [1, 2]},
        second={"task": "retry_then_ok", "args": [1]},
        badly={"task": "fail"},
        never={"task": "exhausted"},
        ignored={"task": "ignore"},
        rejected={"task": "reject"},
        late={"task": "add", "args": [1, 2], "options": {"expires": -10}},
        unknown={"task": "no_such_task"},
        unwanted={"task": "add", "args": [1, 2]},
        killed={"task": "die"},
    )
    options = {"well": {"checkin_margin": 7, "max_runtime": 5, "timezone": "Asia/Tokyo"}}
    env = with_crons(env, crons_exclude=["unw.*"], crons_options=options)
    worker = live.worker(redis_broker, env=env)
    beat = live.beat(redis_broker, env=env)
    for slug in ("well", "second", "ignored"):
        assert closed(receiver, slug) == ["in_progress", "ok"], slug
    for slug in ("badly", "never", "rejected", "late", "unknown", "killed"):
        assert closed(receiver, slug) == ["error", "in_progress"], slug
    beat.stop()
    worker.stop()
    assert len([item for item in receiver.items if item.kind == "check_in"]) == 2 * 9
    assert not check_ins(receiver, "unwanted")
    config = {"schedule": {"type": "interval", "value": 2, "unit": "hour"}, "timezone": "UTC"}
    for one in check_ins(receiver, "second"):
        assert one["monitor_config"] == config
    for one in check_ins(receiver, "well"):
        assert one["monitor_config"] == {**config, **options["well"]}
        assert one.get("duration") is None or 0 <= one["duration"] < LIMIT


@pytest.mark.parametrize("order", ["before", "after"])
def test_check_ins_through_a_client_of_the_apps_own(
    redis_broker: Broker, live: LiveApp, receiver: Receiver, order: str
) -> None:
    """I initialise Sentry myself, and ask for check-ins: each tick is told once, by my client."""
    env = schedule(well={"task": "add", "args": [1, 2]}, badly={"task": "fail"})
    env = {**with_crons(env), "APP_SENTRY_INIT": order, "APP_SENTRY_DSN": receiver.dsn}
    del live.env["SENTRY_DSN"]
    worker = live.worker(redis_broker, app=OWN, env=env)
    beat = live.beat(redis_broker, app=OWN, env=env)
    assert closed(receiver, "well") == ["in_progress", "ok"]
    assert closed(receiver, "badly") == ["error", "in_progress"]
    assert beat.stop() == 0
    assert worker.stop() == 0
    assert len([item for item in receiver.items if item.kind == "check_in"]) == 2 * 2
    events = [event for event in receiver.events if REDBEAT not in str(event.data)]
    assert [event.data["transaction"] for event in events] == [f"{SHOP}.fail"]


def test_no_check_ins_unless_asked_for(
    redis_broker: Broker, live: LiveApp, receiver: Receiver
) -> None:
    """I have not heard of crons, and nothing of it is sent."""
    env = schedule(once={"task": "add", "args": [1, 2]})
    worker = live.worker(redis_broker, env=env)
    beat = live.beat(redis_broker, env=env)
    worker.wait_log("succeeded in")
    beat.stop()
    worker.stop()
    assert not [item for item in receiver.items if item.kind == "check_in"]


def test_redbeats_ticks_are_seen_as_any_others(
    redis_broker: Broker, live: LiveApp, receiver: Receiver
) -> None:
    """My schedule is in Redis, and nothing is different."""
    env = schedule(often={"task": "add", "args": [1, 2], "schedule": 1})
    env["APP_CONFIG"] = json.dumps({"redbeat_redis_url": redis_broker.url})
    live.worker(redis_broker, env=env)
    beat = live.beat(redis_broker, "-S", "redbeat.RedBeatScheduler", env=env)
    assert receiver.wait_for(lambda r: sum(s.name.startswith("run ") for s in r.spans) >= 2, LIMIT)
    beat.stop()
    assert "Acquired lock" in beat.log  # redbeat has taken part in the start
    ticks = [span for span in receiver.spans if span.name.startswith("publish ")]
    assert len({tick.trace_id for tick in ticks}) == len(ticks) >= 2
    assert {tick.attributes[semconv.CELERY_SCHEDULE_ENTRY] for tick in ticks} == {"often"}
    assert not receiver.events
