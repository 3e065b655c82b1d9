"""Tasks for later, and tasks that nobody calls: ETA, countdown, beat."""

from __future__ import annotations

import json
from datetime import datetime
from typing import TYPE_CHECKING

import pytest

from taskobs import semconv
from tests.live.celery_process import SHOP
from tests.live.process import LIMIT
from tests.live.shop import QUICK

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from taskobs.testing.receiver import Receiver
    from taskobs.testing.wire import ReceivedSpan
    from tests.live.audit import AuditedShop
    from tests.live.celery_process import Broker, LiveApp

SECOND = 1_000_000_000
ROUNDED = 0.001
"""Seconds: clocks are written down to the microsecond."""
DUE_LATER = {
    "countdown": "countdown=1",
    "eta": "eta=datetime.now(timezone.utc) + timedelta(seconds=1)",
    "elsewhere": "eta=datetime.now(timezone(timedelta(hours=5))) + timedelta(seconds=1)",
}
TICK = 1.0
REDBEAT = "acquire_distributed_beat_lock"
"""Where celery-redbeat is installed, Sentry imports it, and it stumbles over other schedulers."""
TICKING = {"task": f"{SHOP}.add", "schedule": TICK, "args": [1, 2]}
OVERDUE = {**TICKING, "schedule": 3600, "last_run_at": "2020-01-01T00:00:00+00:00"}


def entry(told: Mapping[str, object]) -> dict[str, str]:
    """Give the environment of an app whose schedule has this entry."""
    config = json.dumps({"beat_max_loop_interval": 0.1})
    return {"APP_BEAT": json.dumps({"tick": told}), "APP_CONFIG": config}


@pytest.mark.parametrize(
    "when",
    [
        pytest.param("countdown", marks=pytest.mark.row("later", "countdown")),
        pytest.param("eta", marks=pytest.mark.row("later", "ETA")),
        pytest.param("elsewhere", marks=pytest.mark.row("later", "ETA")),
    ],
)
def test_queue_latency_counts_from_the_eta(each_shop: AuditedShop, when: str) -> None:
    """I ask for a task in a second, and that second is no latency of my queue."""
    source = f"""
import time
from datetime import datetime, timedelta, timezone
before = time.time()
sent = app.add.apply_async((1, 2), {DUE_LATER[when]})
after = time.time()
sent.get(timeout=90)
result = [sent.id, before, after]
"""
    task_id, before, after = each_shop.run(source)
    publish, run = each_shop.spans(task_id, 2)
    assert (publish.status, run.parent_id) == ("unset", publish.span_id)
    eta = datetime.fromisoformat(str(run.attributes[semconv.CELERY_ETA])).timestamp()
    assert before + 1 - ROUNDED < eta < after + 1 + ROUNDED
    latency = run.attributes[semconv.CELERY_QUEUE_LATENCY]
    assert isinstance(latency, float)
    # Timers may fire early: gevent's count from when its loop last woke up.
    assert 0 <= latency < max(0.0, run.start_ns / SECOND - eta) + ROUNDED


def test_nothing_else_came(each_shop: AuditedShop) -> None:
    """I stop the worker, and it has told nothing else."""
    each_shop.audit()


def ticks(receiver: Receiver, number: int) -> Sequence[tuple[ReceivedSpan, ReceivedSpan]]:
    """Wait for ticks of the schedule: the publish and the run of each."""

    def pairs() -> list[tuple[ReceivedSpan, ReceivedSpan]]:
        runs = {s.parent_id: s for s in receiver.spans if s.name.startswith(semconv.RUN_SPAN)}
        return [(span, runs[span.span_id]) for span in receiver.spans if span.span_id in runs]

    assert receiver.wait_for(lambda _: len(pairs()) >= number, LIMIT), receiver.spans
    return pairs()


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param("separate", marks=pytest.mark.row("beat", "beat")),
        pytest.param("embedded", marks=pytest.mark.row("beat", "embedded beat")),
    ],
)
def test_each_tick_of_beat_is_a_trace(
    live: LiveApp, receiver: Receiver, broker: Broker, kind: str
) -> None:
    """Each time that my schedule comes round, there is one trace of its publish and its run."""
    see_ticks(live, receiver, broker, kind, "prefork")


@pytest.mark.row("beat", "embedded beat")
@pytest.mark.parametrize("pool", ["spawn", "solo", "threads"])
def test_each_tick_of_beat_inside_another_pools_worker(
    live: LiveApp, receiver: Receiver, redis_broker: Broker, pool: str
) -> None:
    """I run beat inside a worker that does not fork, and its ticks are traces too."""
    see_ticks(live, receiver, redis_broker, "embedded", pool)


def see_ticks(live: LiveApp, receiver: Receiver, broker: Broker, kind: str, pool: str) -> None:
    """Let a schedule come round three times, and stop everything."""
    env = {**QUICK, **entry(TICKING)}
    schedule = ("-B", "-s", str(live.folder / "schedule")) if kind == "embedded" else ()
    worker = live.worker(broker, *schedule, pool=pool, env=env)
    beat = None if schedule else live.beat(broker, "-l", "DEBUG", env=env)
    found = ticks(receiver, 3)
    assert len({publish.trace_id for publish, _ in found}) == len(found)
    for publish, run in found:
        assert (publish.name, publish.kind, publish.parent_id) == (
            f"publish {SHOP}.add",
            "producer",
            "",
        )
        assert (publish.status, run.status, run.kind) == ("unset", "unset", "consumer")
        assert run.trace_id == publish.trace_id
        assert publish.attributes[semconv.PROCESS_PID] != run.attributes[semconv.PROCESS_PID]
    if beat is not None:
        assert beat.stop_between_ticks() == 0
    worker.stop()
    assert [event for event in receiver.events if REDBEAT not in str(event.data)] == []


def test_a_beat_that_stops_tells_of_its_last_tick(
    live: LiveApp, receiver: Receiver, redis_broker: Broker
) -> None:
    """I stop beat, and what it has published is told, once, however short it ran."""
    beat = live.beat(redis_broker, "-l", "DEBUG", env=entry(OVERDUE))
    beat.wait_log(f"{SHOP}.add sent. id->")
    beat.wait_idle()
    assert beat.stop() == 0
    [tick] = receiver.spans
    assert f"sent. id->{tick.attributes[semconv.MESSAGING_MESSAGE_ID]}" in beat.log
