"""How workers stop: what they ran is told, and a dead backend holds nobody up."""

from __future__ import annotations

import json
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from taskobs import names
from tests.live.process import wait_until
from tests.live.services import HOST, free_port
from tests.live.shop import tags

if TYPE_CHECKING:
    from collections.abc import Mapping

    from taskobs.demo.receiver import Receiver
    from tests.live.celery_process import Broker, LiveApp, Producer, Worker

BATCH = """
sent = [app.fail.delay() if n % 4 == 0 else app.slow.delay({seconds}) for n in range({number})]
"""
GET = "for one in sent: one.get(timeout=60, propagate=False)\n"
STATES = "result = {one.id: one.state for one in sent}"
OFF = {"TASKOBS_ENABLED": "0"}
SHUTDOWN_TIMEOUT = 3.0
"""Seconds: the default of the setting, which these tests keep."""
NOISE = 3.0
"""Seconds by which one stop may take longer than another on a busy machine."""


def told(receiver: Receiver, states: Mapping[str, str]) -> None:
    """See that there is one run span for each task that ended, one event for each failed one."""
    ended = {task_id for task_id, state in states.items() if state in {"SUCCESS", "FAILURE"}}
    runs = [span for span in receiver.spans if span.name.startswith(names.RUN_SPAN)]
    assert Counter(str(run.attributes[names.MESSAGING_MESSAGE_ID]) for run in runs) == Counter(
        ended
    )
    failed = {task_id for task_id, state in states.items() if state == "FAILURE"}
    events = Counter(tags(event).get(names.TAG_TASK_ID) for event in receiver.events)
    assert events == Counter(failed)
    for event in receiver.events:
        assert event.event_id in {run.attributes.get(names.SENTRY_EVENT_ID) for run in runs}


@pytest.mark.parametrize("pool", ["prefork", "solo", "threads"])
def test_a_warm_stop_loses_nothing(
    live: LiveApp, receiver: Receiver, broker: Broker, pool: str
) -> None:
    """I stop my worker in the middle of its work, and all that it did is told, once."""
    worker, producer = live.worker(broker, pool=pool), live.producer(broker)
    producer.run(BATCH.format(number=40, seconds=0.05) + "sent[5].get(timeout=30)")
    assert worker.stop() == 0
    states = producer.run(STATES)
    assert sum(state == "SUCCESS" for state in states.values()) >= 4
    told(receiver, states)
    assert producer.close() == 0
    assert sum(span.name.startswith(names.PUBLISH_SPAN) for span in receiver.spans) == 40


@pytest.mark.parametrize("limit", ["--max-tasks-per-child=1", "--max-memory-per-child=1"])
def test_recycled_children_lose_nothing(
    live: LiveApp, receiver: Receiver, broker: Broker, limit: str
) -> None:
    """Each task has a child of its own, and each is told, once."""
    worker, producer = live.worker(broker, limit), live.producer(broker)
    states = producer.run(BATCH.format(number=8, seconds=0) + GET + STATES)
    assert worker.stop() == 0
    told(receiver, states)
    runs = [span for span in receiver.spans if span.name.startswith(names.RUN_SPAN)]
    assert len({run.attributes[names.PROCESS_PID] for run in runs}) == 8


def test_a_soft_stop_tells_of_what_it_waited_for(
    live: LiveApp, receiver: Receiver, redis_broker: Broker
) -> None:
    """I let Celery wait for running tasks before it stops cold, and they are told."""
    env = {"APP_CONFIG": json.dumps({"worker_soft_shutdown_timeout": 3})}
    worker, producer = live.worker(redis_broker, env=env), live.producer(redis_broker)
    running = producer.run("sent = [app.slow.delay(1)]; result = sent[0].id")
    worker.wait_received(running)
    worker.stop("QUIT")
    assert producer.run(STATES) == {running: "SUCCESS"}
    told(receiver, {running: "SUCCESS"})


DEAD = ("refuses", "hangs")


def dead(receiver: Receiver, how: str) -> dict[str, str]:
    """Give the settings of backends that refuse connections, or accept and never answer."""
    if how == "hangs":
        receiver.behave(hang=True)
    if how != "refuses":
        return {}
    gone = f"{HOST}:{free_port()}"
    return {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://{gone}", "SENTRY_DSN": f"http://demo@{gone}/1"}


def seconds_of(producer: Producer, number: int) -> float:
    """Publish tasks, every 4th fails, wait for their ends, and give how long that took."""
    source = "import time\nbegan = time.monotonic()" + BATCH.format(number=number, seconds=0) + GET
    return float(producer.run(source + "result = time.monotonic() - began"))


def seconds_to_stop(worker: Worker) -> float:
    """Stop a worker warmly, and give how long that took."""
    began = time.monotonic()
    assert worker.stop() == 0
    return time.monotonic() - began


@pytest.mark.parametrize("pool", ["prefork", "solo"])
def test_dead_backends_slow_nothing_down(
    live: LiveApp, receiver: Receiver, redis_broker: Broker, pool: str
) -> None:
    """My collector and my Sentry are down: tasks run as fast, and the worker stops soon."""
    taken: dict[str, float] = {}
    stopped: dict[str, float] = {}
    for how in ("off", "alive", *DEAD):
        env = OFF if how == "off" else dead(receiver, how)
        worker = live.worker(redis_broker, pool=pool, env=env)
        producer = live.producer(redis_broker, env=env)
        seconds_of(producer, 4)
        taken[how] = seconds_of(producer, 100)
        stopped[how] = seconds_to_stop(worker)
        began = time.monotonic()
        assert producer.close() == 0
        assert time.monotonic() - began < SHUTDOWN_TIMEOUT + NOISE
    for how in DEAD:
        assert taken[how] <= 3 * taken["alive"] + 1, taken
        assert stopped[how] - stopped["off"] <= SHUTDOWN_TIMEOUT + NOISE, stopped


def test_a_dead_collector_does_not_keep_a_slot(
    live: LiveApp, receiver: Receiver, redis_broker: Broker
) -> None:
    """Children come and go while my collector hangs, and the next task still has its child."""
    env = {**dead(receiver, "hangs"), "TASKOBS_SHUTDOWN_TIMEOUT": "1"}
    worker = live.worker(redis_broker, "--max-tasks-per-child=1", concurrency=1, env=env)
    producer = live.producer(redis_broker, env=env)
    assert seconds_of(producer, 3) < 3 * (1 + NOISE)
    assert seconds_to_stop(worker) < 1 + 2 * NOISE


def threads(pid: int) -> int:
    """Count the threads of a process."""
    return len(list(Path(f"/proc/{pid}/task").iterdir()))


def test_the_parent_has_no_thread_of_ours(
    live: LiveApp, receiver: Receiver, redis_broker: Broker
) -> None:
    """My worker's main process has the threads that it has without taskobs."""
    bare = live.worker(redis_broker, env=OFF)
    producer = live.producer(redis_broker, env={"OTEL_BSP_SCHEDULE_DELAY": "100"})
    seconds_of(producer, 8)
    number = threads(bare.pid)
    bare.stop()
    worker = live.worker(redis_broker, env={"OTEL_BSP_SCHEDULE_DELAY": "100"})
    seconds_of(producer, 8)
    assert receiver.wait_for(lambda r: len(r.spans) >= 8 + 8 + 8, timeout=20)
    assert wait_until(lambda: threads(worker.pid) == number, timeout=5), threads(worker.pid)
