"""The relay beside a real worker: what passes through it, what it does not cost, and its ends."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from taskobs import semconv
from taskobs.relay_client import socket_directory
from tests.live.process import LIMIT, wait_until
from tests.live.shop import tags, trace_of
from tests.support.relay_status import replies

if TYPE_CHECKING:
    from taskobs.testing.receiver import Receiver
    from taskobs.testing.wire import ReceivedEvent, ReceivedSpan
    from tests.live.celery_process import Broker, LiveApp, Worker

if not socket_directory.SUPPORTED or not Path("/proc/self/fd").exists():
    pytest.skip("needs Unix sockets, and /proc to look at processes", allow_module_level=True)

POOLS = ["prefork", "spawn", "solo", "threads", "gevent"]
OFF = {"TASKOBS_ENABLED": "0"}
DIRECT = {"TASKOBS_RELAY": "0"}
NO_RELAY = "taskobs: there is no relay"
ESTABLISHED = "01"


# Looking at processes.


def children(pid: int) -> list[int]:
    found: list[int] = []
    for listing in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):  # the thread has just ended
            found += map(int, listing.read_text().split())
    return found


def command(pid: int) -> str:
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    return ""


def is_relay(pid: int) -> bool:
    return "taskobs.relay" in command(pid) or "taskobs relay" in command(pid)


def relay_of(worker: Worker) -> int:
    """Wait for the relay of a worker, and give its process id."""
    assert wait_until(lambda: any(map(is_relay, children(worker.pid))), timeout=LIMIT)
    return next(filter(is_relay, children(worker.pid)))


def has_ended(pid: int) -> bool:
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    return True


def threads(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/task").iterdir()))


def connected_to(pid: int, port: int) -> bool:
    """Tell whether a process has a TCP connection to a port of this machine."""
    inodes: set[str] = set()
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(OSError):
            inodes.add(str(link.readlink()).removeprefix("socket:[").removesuffix("]"))
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            words = line.split()
            remote = int(words[2].rpartition(":")[2], 16)
            if (remote, words[3]) == (port, ESTABLISHED) and words[9] in inodes:
                return True
    return False


def exported(worker: Worker) -> list[tuple[int, int]]:
    """Give the process id of a worker's relay, and how many events it has sent."""
    return [(one["pid"], one["exported"].get("envelope", 0)) for one in replies(worker.pid)]


# Looking at what arrives.


def spans_of(receiver: Receiver, task_id: str, kind: str = "consumer") -> list[ReceivedSpan]:
    return [
        span
        for span in receiver.spans
        if span.kind == kind and span.attributes.get(semconv.MESSAGING_MESSAGE_ID) == task_id
    ]


def one_run(receiver: Receiver, task_id: str, kind: str = "consumer") -> ReceivedSpan:
    arrived = receiver.wait_for(lambda r: bool(spans_of(r, task_id, kind)), LIMIT)
    assert arrived, receiver.spans
    [run] = spans_of(receiver, task_id, kind)
    return run


def one_event(receiver: Receiver, run: ReceivedSpan) -> ReceivedEvent:
    task_id = run.attributes[semconv.MESSAGING_MESSAGE_ID]

    def of_task() -> list[ReceivedEvent]:
        return [one for one in receiver.events if tags(one).get(semconv.TAG_TASK_ID) == task_id]

    assert receiver.wait_for(lambda _: bool(of_task()), LIMIT)
    [event] = of_task()
    assert trace_of(event) == (run.trace_id, run.span_id)
    assert run.attributes[semconv.SENTRY_EVENT_ID] == event.event_id
    return event


@pytest.mark.parametrize("pool", POOLS)
def test_all_passes_through_the_relay(
    live: LiveApp, receiver: Receiver, redis_broker: Broker, pool: str
) -> None:
    """My worker's processes send through the relay alone: they have no connection and no thread."""
    bare = live.worker(redis_broker, pool=pool, env=OFF)
    producer = live.producer(redis_broker)
    work = """
sent = [app.child_span.delay("inner"), app.fail.delay()] + [app.add.delay(n, n) for n in range(6)]
sent += [app.slow.delay(1), app.slow.delay(1)]  # beside each other: each thread is started
for one in sent: one.get(timeout=90, propagate=False)
result = [one.id for one in sent]
"""
    producer.run(work)
    without = threads(bare.pid)
    assert bare.stop() == 0

    worker = live.worker(redis_broker, pool=pool)
    relay = relay_of(worker)
    ids = producer.run(work)
    for task_id in ids:
        run = one_run(receiver, task_id)
        publish = one_run(receiver, task_id, "producer")
        assert (run.trace_id, run.parent_id) == (publish.trace_id, publish.span_id)
    failed = one_run(receiver, ids[1])
    assert failed.status == "error"
    one_event(receiver, failed)
    [inner] = [span for span in receiver.spans if span.name == "inner"]
    assert inner.parent_id == one_run(receiver, ids[0]).span_id

    # A backend has an event before the relay has read its answer, and counts it.
    counted = wait_until(lambda: exported(worker) == [(relay, 1)], timeout=LIMIT)
    assert counted, replies(worker.pid)

    pool_children = [pid for pid in children(worker.pid) if pid != relay]
    assert bool(pool_children) == (pool in ("prefork", "spawn"))
    for pid in (worker.pid, *pool_children):
        assert not connected_to(pid, receiver.port), command(pid)
    for pid in pool_children:
        assert threads(pid) == 1 or pool == "spawn", command(pid)
    # Not equal: gevent's resolver has threads that come and go.
    assert wait_until(lambda: threads(worker.pid) <= without, timeout=LIMIT), threads(worker.pid)
    assert worker.stop() == 0
    assert wait_until(lambda: has_ended(relay), timeout=LIMIT)
    assert len(receiver.events) == 1
    assert NO_RELAY not in worker.log


def test_a_killed_child_is_reported_with_its_open_spans(
    live: LiveApp, receiver: Receiver, redis_broker: Broker
) -> None:
    """The OOM killer takes my task in the midst of a span, and I see where it was."""
    worker, producer = live.worker(redis_broker), live.producer(redis_broker)
    task_id = producer.run("result = app.die.delay('KILL', 'in the midst').id")
    run = one_run(receiver, task_id)
    assert run.attributes[semconv.CELERY_OUTCOME] == "lost"
    assert run.attributes[semconv.CELERY_SIGNAL] == "SIGKILL"
    assert run.status == "error"
    one_event(receiver, run)
    assert receiver.wait_for(lambda r: any(s.name == "in the midst" for s in r.spans), LIMIT)
    assert worker.stop() == 0
    [inner] = [span for span in receiver.spans if span.name == "in the midst"]
    assert (inner.trace_id, inner.parent_id) == (run.trace_id, run.span_id)
    assert inner.attributes[semconv.TASKOBS_LOST] is True
    assert inner.status == "error"
    assert len(spans_of(receiver, task_id)) == len(receiver.events) == 1


def test_a_hard_time_limit_is_reported_with_the_open_spans(
    live: LiveApp, receiver: Receiver, redis_broker: Broker
) -> None:
    """My task hangs in a call, the hard limit ends it, and I see in which call it hung."""
    worker, producer = live.worker(redis_broker), live.producer(redis_broker)
    source = "result = app.slow_span.apply_async(('a call', 60), time_limit=3).id"
    run = one_run(receiver, producer.run(source))
    assert run.attributes[semconv.CELERY_OUTCOME] == "lost"
    assert "TimeLimitExceeded" in str(run.attributes[semconv.ERROR_TYPE])
    one_event(receiver, run)
    assert worker.stop() == 0
    # Billiard begins with a SIGTERM, which ends the span; its SIGKILL comes after.
    [inner] = [span for span in receiver.spans if span.name == "a call"]
    assert (inner.trace_id, inner.parent_id) == (run.trace_id, run.span_id)
    assert len(receiver.events) == 1


MANY = """
sent = [app.fail.delay() if n % 10 == 0 else app.child_span.delay(f"inner {n}") for n in range(40)]
for one in sent: one.get(timeout=90, propagate=False)
result = [one.id for one in sent]
"""


FAILURES = """
sent = [app.fail.delay() for n in range(300)]
for one in sent: one.get(timeout=90, propagate=False)
result = [one.id for one in sent]
"""


def told_once(receiver: Receiver, ids: list[str]) -> None:
    """Hold all that a stopped worker has told to the tasks of ``MANY``."""
    runs = [span for span in receiver.spans if span.kind == "consumer"]
    assert sorted(str(run.attributes[semconv.MESSAGING_MESSAGE_ID]) for run in runs) == sorted(ids)
    inner = [span.name for span in receiver.spans if span.name.startswith("inner ")]
    assert sorted(inner) == sorted(f"inner {n}" for n in range(40) if n % 10)
    assert sorted(tags(one)[semconv.TAG_TASK_ID] for one in receiver.events) == sorted(ids[::10])


@pytest.mark.parametrize("pool", ["prefork", "spawn"])
def test_children_that_come_and_go_lose_nothing(
    live: LiveApp, receiver: Receiver, redis_broker: Broker, pool: str
) -> None:
    """Each child runs a few tasks, and the worker stops at once after the last."""
    limit = "--max-tasks-per-child=" + ("1" if pool == "prefork" else "10")
    worker = live.worker(redis_broker, limit, pool=pool)
    ids = live.producer(redis_broker).run(MANY)
    assert worker.stop() == 0
    told_once(receiver, ids)


def test_a_relay_that_is_killed_is_replaced(
    live: LiveApp, receiver: Receiver, redis_broker: Broker, tmp_path: Path
) -> None:
    """Somebody kills my relay twice while my worker works: nothing is lost.

    What it was sending at that moment may come again, as the same span and the same event.
    """
    env = {"TASKOBS_RELAY_SPOOL": str(tmp_path / "spool")}
    worker, producer = live.worker(redis_broker, env=env), live.producer(redis_broker)
    ids: list[str] = []
    for _ in range(2):
        relay = relay_of(worker)
        producer.run(MANY.partition("for one in")[0])  # under way when it dies
        os.kill(relay, signal.SIGKILL)
        ids += producer.run(MANY.partition("\n")[2].partition("\n")[2])
        killed = relay
        assert wait_until(lambda: relay_of(worker) != killed, timeout=LIMIT)  # noqa: B023  # at once
    assert "the relay died, signal 9" in worker.log
    assert worker.stop() == 0
    runs = {span.span_id: span for span in receiver.spans if span.kind == "consumer"}
    told = [str(run.attributes[semconv.MESSAGING_MESSAGE_ID]) for run in runs.values()]
    assert sorted(told) == sorted(ids)
    events = {one.event_id: one for one in receiver.events}
    failed = [task_id for n, task_id in enumerate(ids) if n % 40 % 10 == 0]
    assert sorted(tags(one)[semconv.TAG_TASK_ID] for one in events.values()) == sorted(failed)


def test_without_the_relay_each_process_sends(
    live: LiveApp, receiver: Receiver, redis_broker: Broker
) -> None:
    """I turn the relay off, and all is told as well."""
    worker = live.worker(redis_broker, env=DIRECT)
    ids = live.producer(redis_broker).run(MANY)
    assert not any(map(is_relay, children(worker.pid)))
    assert worker.stop() == 0
    told_once(receiver, ids)


def test_where_it_cannot_start_each_process_sends(
    live: LiveApp, receiver: Receiver, redis_broker: Broker, tmp_path: Path
) -> None:
    """The relay can't start here: I read why, once, and nothing is lost."""
    dies = "import os, sys\nif 'taskobs.relay' in sys.orig_argv: os._exit(9)\n"
    # The relay imports this module if it is there.
    (tmp_path / "setproctitle.py").write_text(dies + "def setproctitle(title): pass\n")
    env = {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(Path(__file__).parents[2])])}
    worker, producer = live.worker(redis_broker, env=env), live.producer(redis_broker)
    ids = producer.run(MANY)
    worker.wait_log(NO_RELAY)
    assert worker.stop() == 0
    assert worker.log.count(NO_RELAY) == 1
    assert "exit status 9" in worker.log
    told_once(receiver, ids)


def test_a_relay_that_stands_still_delays_no_task(
    live: LiveApp, receiver: Receiver, redis_broker: Broker
) -> None:
    """My relay hangs: tasks don't wait for it, and all is told once it goes on."""
    worker, producer = live.worker(redis_broker), live.producer(redis_broker)
    ids = producer.run(MANY)
    relay = relay_of(worker)
    timed = f"import time\nbegan = time.monotonic()\n{MANY}"
    timed += "result = [time.monotonic() - began, result]"
    usual, more = producer.run(timed)
    os.kill(relay, signal.SIGSTOP)
    try:
        stopped, most = producer.run(timed)
    finally:
        os.kill(relay, signal.SIGCONT)
    assert stopped <= 3 * usual + 20, (stopped, usual)
    assert worker.stop() == 0
    runs = [span for span in receiver.spans if span.kind == "consumer"]
    assert sorted(str(run.attributes[semconv.MESSAGING_MESSAGE_ID]) for run in runs) == sorted(
        ids + more + most
    )


@pytest.mark.parametrize("killed", ["while the relay stands still", "after it"])
def test_an_idle_child_has_nothing_to_lose(
    live: LiveApp, receiver: Receiver, redis_broker: Broker, killed: str
) -> None:
    """300 tasks fail while the relay stands still; then their child is idle, and is killed."""
    worker, producer = live.worker(redis_broker, concurrency=1), live.producer(redis_broker)
    relay = relay_of(worker)
    producer.run("app.add.delay(1, 1).get(timeout=90)")
    [child] = [pid for pid in children(worker.pid) if pid != relay]
    os.kill(relay, signal.SIGSTOP)
    try:
        ids = producer.run(FAILURES)
        if killed == "while the relay stands still":
            os.kill(child, signal.SIGKILL)
    finally:
        os.kill(relay, signal.SIGCONT)
    assert receiver.wait_for(lambda r: len(r.events) >= len(ids), LIMIT), len(receiver.events)
    if killed == "after it":
        os.kill(child, signal.SIGKILL)
    assert sorted(tags(one)[semconv.TAG_TASK_ID] for one in receiver.events) == sorted(ids)
    [counts] = replies(worker.pid)
    assert counts["dropped"] == {}


@pytest.mark.parametrize("pool", ["prefork", "solo"])
def test_a_worker_that_is_restarted_in_place_loses_nothing(
    live: LiveApp, receiver: Receiver, redis_broker: Broker, pool: str
) -> None:
    """I send SIGHUP: my worker executes itself anew, with a relay of its own, and all is told."""
    # What `python -m celery` executes anew is a file of Celery's that can't be run by itself.
    worker = live.worker(redis_broker, pool=pool, script="tests.live.apps.script")
    producer = live.producer(redis_broker)
    relay = relay_of(worker)
    ids = producer.run(MANY)
    worker.signal("HUP")
    assert wait_until(lambda: worker.log.count(" ready.") == 2, timeout=LIMIT)
    assert wait_until(lambda: has_ended(relay), timeout=LIMIT)
    told_once(receiver, ids)
    again = producer.run("sent = app.add.delay(1, 2); sent.get(timeout=90); result = sent.id")
    one_run(receiver, again)
    assert len([pid for pid in children(worker.pid) if is_relay(pid)]) == 1
    assert worker.stop() == 0
