"""How workers stop: what they ran is told, and a dead backend holds nobody up."""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

import pytest

from taskobs import semconv
from taskobs.testing.receiver import Receiver
from tests.live.celery_process import Broker, Producer
from tests.live.process import LIMIT, wait_until
from tests.live.services import HOST, free_port
from tests.live.shop import tags

if TYPE_CHECKING:
    from collections.abc import Mapping

    from taskobs.testing.wire import ReceivedEvent
    from tests.live import services
    from tests.live.celery_process import LiveApp, Worker
    from tests.live.process import Program

BATCH = """
sent = [app.fail.delay() if n % 4 == 0 else app.slow.delay({seconds}) for n in range({number})]
"""
GET = "for one in sent: one.get(timeout=90, propagate=False)\n"
STATES = "result = {one.id: one.state for one in sent}"
OFF = {"TASKOBS_ENABLED": "0"}
SHUTDOWN_TIMEOUT = 3.0
"""Seconds: the default of the setting."""
NOISE = 30.0
"""Seconds by which one stop may take longer than another on a busy machine."""


def told(receiver: Receiver, states: Mapping[str, str]) -> None:
    """See that there is one run span for each task that ended, one event for each failed one."""
    ended = {task_id for task_id, state in states.items() if state in {"SUCCESS", "FAILURE"}}
    runs = [span for span in receiver.spans if span.name.startswith(semconv.RUN_SPAN)]
    assert Counter(str(run.attributes[semconv.MESSAGING_MESSAGE_ID]) for run in runs) == Counter(
        ended
    )
    failed = {task_id for task_id, state in states.items() if state == "FAILURE"}
    events = Counter(tags(event).get(semconv.TAG_TASK_ID) for event in receiver.events)
    assert events == Counter(failed)
    for event in receiver.events:
        assert event.event_id in {run.attributes.get(semconv.SENTRY_EVENT_ID) for run in runs}


@pytest.mark.row("stops", "warm")
@pytest.mark.parametrize("pool", ["prefork", "solo", "threads"])
def test_a_warm_stop_loses_nothing(
    live: LiveApp, receiver: Receiver, broker: Broker, pool: str
) -> None:
    """I stop my worker in the middle of its work, and all that it did is told, once."""
    worker, producer = live.worker(broker, pool=pool), live.producer(broker)
    producer.run(BATCH.format(number=40, seconds=0.05) + "sent[5].get(timeout=90)")
    assert worker.stop() == 0
    states = producer.run(STATES)
    assert sum(state == "SUCCESS" for state in states.values()) >= 4
    told(receiver, states)
    assert producer.close() == 0
    assert sum(span.name.startswith(semconv.PUBLISH_SPAN) for span in receiver.spans) == 40


@pytest.mark.parametrize(
    "limit",
    [
        pytest.param(f"--{name}=1", marks=pytest.mark.row("stops", name))
        for name in ("max-tasks-per-child", "max-memory-per-child")
    ],
)
@pytest.mark.parametrize("pool", ["prefork", "spawn"])
def test_recycled_children_lose_nothing(
    live: LiveApp, receiver: Receiver, broker: Broker, limit: str, pool: str
) -> None:
    """Each task has a child of its own, and each is told, once."""
    worker, producer = live.worker(broker, limit, pool=pool), live.producer(broker)
    states = producer.run(BATCH.format(number=8, seconds=0) + GET + STATES)
    assert producer.close() == 0  # which sends its spans
    assert worker.stop() == 0
    told(receiver, states)
    runs = [span for span in receiver.spans if span.name.startswith(semconv.RUN_SPAN)]
    assert len({run.attributes[semconv.PROCESS_PID] for run in runs}) == 8


@pytest.mark.row("stops", "soft")
@pytest.mark.parametrize("pool", ["prefork", "spawn", "threads"])
def test_a_soft_stop_tells_of_what_it_waited_for(
    live: LiveApp, receiver: Receiver, redis_broker: Broker, pool: str
) -> None:
    """I let Celery wait for running tasks before it stops cold, and they are told."""
    env = {"APP_CONFIG": json.dumps({"worker_soft_shutdown_timeout": 8})}
    worker = live.worker(redis_broker, pool=pool, env=env)
    producer = live.producer(redis_broker)
    folder = live.folder / "held"
    folder.mkdir()
    running = producer.run(f"sent = [app.hold.delay({str(folder)!r})]; result = sent[0].id")
    producer.wait_active(running)  # what is received only is not waited for
    worker.signal("QUIT")
    worker.wait_log("Initiating Soft Shutdown")
    (folder / "go").touch()
    worker.wait()
    assert producer.run(STATES) == {running: "SUCCESS"}
    told(receiver, {running: "SUCCESS"})


UNSTOPPABLE = (
    "does not implement kill_job",
    "do not call blocking functions from the mainloop",
    "cannot schedule new futures after shutdown",
)
"""What Celery raises at a cold stop, as threads and greenlets can't be stopped.

Its signal handler raises, whatever the main thread is doing: any logger may tell of it.
"""


def broke_celery(event: ReceivedEvent) -> bool:
    """Tell whether an event is of Celery's own break at a cold stop."""
    raised = str(event.data.get("exception"))
    return event.data.get("logger") == "celery.worker" or any(why in raised for why in UNSTOPPABLE)


NEXT_TASK = "one = app.add.delay(1, 2); one.get(timeout=90); result = {one.id: one.state}"


@pytest.mark.row("stops", "cold")
@pytest.mark.parametrize("pool", ["prefork", "spawn", "solo", "threads", "gevent", "eventlet"])
def test_a_cold_stop_tells_of_what_has_ended(
    live: LiveApp, receiver: Receiver, redis_broker: Broker, pool: str
) -> None:
    """I stop my worker cold while a task runs: what had ended before is told, once."""
    worker, producer = live.worker(redis_broker, pool=pool), live.producer(redis_broker)
    producer.run(BATCH.format(number=8, seconds=0) + GET)
    states = producer.run(STATES)
    folder = live.folder / "held"
    folder.mkdir()
    running = producer.run(f"result = app.hold.delay({str(folder)!r}).id")
    assert wait_until((folder / running).exists, timeout=LIMIT)
    if pool in {"prefork", "spawn"}:
        # Celery waits for a task to its end if the stop comes before the pool's main process knows
        # that it runs (seen in 5.7). It reads that before it hands out the next task.
        states |= producer.run(NEXT_TASK)
    worker.signal("QUIT")
    worker.wait_log("Hitting Ctrl+C again")
    if pool not in {"prefork", "spawn"}:  # nobody else can end what these run
        (folder / "go").touch()
    worker.wait()
    assert "telemetry unsent" not in worker.log
    runs = [run for run in receiver.spans if run.name.startswith(semconv.RUN_SPAN)]
    ended = Counter(str(run.attributes[semconv.MESSAGING_MESSAGE_ID]) for run in runs)
    assert ended - Counter([running]) == Counter(states.keys())
    of_tasks = [event for event in receiver.events if not broke_celery(event)]
    events = Counter(tags(event).get(semconv.TAG_TASK_ID) for event in of_tasks)
    failed = Counter(task_id for task_id, state in states.items() if state == "FAILURE")
    assert events - Counter([running]) == failed, (
        worker.tail(),
        [event.data for event in of_tasks],
    )
    assert producer.close() == 0


DEAD = ("refuses", "hangs")
ALIVE = "alive"
BLOCKING = "1000"
"""Seconds that the exporter itself tries for: longer than any wait of these tests."""


def dead(receiver: Receiver, how: str) -> dict[str, str]:
    """Give the settings of backends that refuse connections, or accept and never answer."""
    env = {
        "OTEL_EXPORTER_OTLP_TIMEOUT": BLOCKING,
        "TASKOBS_SHUTDOWN_TIMEOUT": str(SHUTDOWN_TIMEOUT),
    }
    if how == "hangs":
        receiver.behave(hang=True)
    if how != "refuses":
        return {**env, "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.endpoint, "SENTRY_DSN": receiver.dsn}
    nobody = f"{HOST}:{free_port()}"
    settings = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://{nobody}",
        "SENTRY_DSN": f"http://x@{nobody}/1",
    }
    return {**env, **settings}


def work(producer: Producer, number: int) -> None:
    """Publish tasks at once, every 4th fails, and wait for their ends."""
    producer.run(BATCH.format(number=number, seconds=0) + GET)


def typical_seconds(producers: Mapping[str, Producer], rounds: int) -> dict[str, float]:
    """Call tasks in turn, every 4th fails, and give the median of what a call of each took."""
    taken: dict[str, list[float]] = {how: [] for how in producers}
    for number in range(rounds):
        call = "fail.delay()" if number % 4 == 0 else "add.delay(1, 2)"
        for how, producer in producers.items():
            source = f"began = time.monotonic()\napp.{call}.get(timeout=90, propagate=False)\n"
            taken[how].append(producer.run(source + "result = time.monotonic() - began"))
    return {how: median(seconds) for how, seconds in taken.items()}


def seconds_to_end(programs: Mapping[str, Program]) -> dict[str, float]:
    """Tell all programs to end, at the same time, and give how long each took."""
    began, taken = time.monotonic(), dict[str, float]()
    for program in programs.values():
        program.signal("TERM")

    def ended() -> bool:
        for how, program in programs.items():
            if not program.running:
                taken.setdefault(how, time.monotonic() - began)
        return len(taken) == len(programs)

    assert wait_until(ended, timeout=LIMIT), taken
    assert {program.wait() for program in programs.values()} == {0}
    return taken


@pytest.mark.skipif(
    sys.version_info[:2] == (3, 12),
    reason="Python 3.12 starts no thread while it ends, so only the exporter bounds it",
)
@pytest.mark.parametrize("pool", ["prefork", "solo"])
def test_dead_backends_slow_nothing_down(
    live: LiveApp, receiver: Receiver, redis_server: services.Redis, pool: str
) -> None:
    """My collector and my Sentry are down: tasks run as fast, and the worker stops soon."""
    workers: dict[str, Worker] = {}
    producers: dict[str, Producer] = {}
    with Receiver() as hanging:
        for how in (ALIVE, *DEAD):
            broker = Broker("redis", url := redis_server.url(), url)
            env = dead(hanging if how == "hangs" else receiver, how)
            workers[how] = live.worker(broker, pool=pool, env=env, ready=False)
            producers[how] = live.producer(broker, env=env)
        for producer in producers.values():
            producer.run("import time")
            work(producer, 100)
        taken = typical_seconds(producers, 40)
        stopped = seconds_to_end(workers)
        with ThreadPoolExecutor() as at_once:
            assert set(at_once.map(Producer.close, producers.values())) == {0}
    for how in DEAD:
        assert taken[how] <= 3 * taken[ALIVE] + 0.1, taken
        assert stopped[how] <= stopped[ALIVE] + SHUTDOWN_TIMEOUT + NOISE, stopped
    assert len(receiver.events) == 25 + 10


@pytest.mark.parametrize("relay", ["0", "1"])
def test_a_dead_collector_does_not_keep_a_slot(
    live: LiveApp, receiver: Receiver, redis_broker: Broker, relay: str
) -> None:
    """Children come and go while my collector hangs, and the next task still has its child."""
    env = {
        **dead(receiver, "hangs"),
        "TASKOBS_SHUTDOWN_TIMEOUT": "1",
        "TASKOBS_RELAY": relay,
    }
    worker = live.worker(redis_broker, "--max-tasks-per-child=1", concurrency=1, env=env)
    producer = live.producer(redis_broker, env=env)
    producer.run("app.fail.delay().get(timeout=90, propagate=False)")
    call = "app.echo_request.delay().get(timeout=90)['pid']"
    pids = producer.run(f"result = [{call} for _ in range(2)]", timeout=2 * LIMIT)
    assert len({worker.pid, *pids}) == 3
    if relay == "0":  # each child before the last one has waited for the collector, in vain
        assert worker.log.count("ends with telemetry unsent") >= 2
    assert worker.stop() == 0


def threads(pid: int) -> int:
    """Count the threads of a process."""
    return len(list(Path(f"/proc/{pid}/task").iterdir()))


def test_the_parent_has_no_thread_of_ours(
    live: LiveApp, receiver: Receiver, redis_broker: Broker
) -> None:
    """My worker's main process has the threads that it has without taskobs."""
    bare = live.worker(redis_broker, env=OFF)
    producer = live.producer(redis_broker, env={"OTEL_BSP_SCHEDULE_DELAY": "100"})
    work(producer, 8)
    number = threads(bare.pid)
    bare.stop()
    worker = live.worker(redis_broker, env={"OTEL_BSP_SCHEDULE_DELAY": "100"})
    work(producer, 8)
    assert receiver.wait_for(lambda r: len(r.spans) >= 8 + 8 + 8, LIMIT)
    assert wait_until(lambda: threads(worker.pid) == number, timeout=LIMIT), threads(worker.pid)
