from __future__ import annotations

import os
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import pytest
from celery import signals
from packaging.version import Version

from taskobs.celery.process_signals import ProcessSignals
from taskobs.celery.roles import Role
from taskobs.testing.receiver import Receiver

EXPORTER = "opentelemetry-exporter-otlp-proto-http"
"""Its releases up to 1.38 give up at once where the connection is refused."""
SCRIPT = Path(__file__).with_name("process_script.py")


def run(case: str, endpoint: str, shutdown: float = 30) -> subprocess.CompletedProcess[str]:
    settings = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint,
        "OTEL_EXPORTER_OTLP_TIMEOUT": "100",
        "TASKOBS_SHUTDOWN_TIMEOUT": str(shutdown),
    }
    return subprocess.run(
        # Python 3.12 warns of each fork beside a thread, and those of an exporter are no trouble.
        [sys.executable, "-W", "ignore:This process:DeprecationWarning", str(SCRIPT), case],
        env={**os.environ, **settings},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )


def ids(receiver: Receiver) -> Counter[object]:
    return Counter(span.attributes.get("messaging.message.id") for span in receiver.spans)


def test_a_fork_sends_each_span_once(receiver: Receiver) -> None:
    """Parent and forked child each send their own spans, and neither sends the other's."""
    assert not run("fork", receiver.endpoint).stderr
    assert ids(receiver) == {"sent": 1, "before": 1, "child": 1, "parent": 1}
    assert {request.status for request in receiver.requests} == {200}


def test_children_of_multiprocessing_send_theirs(receiver: Receiver) -> None:
    """The spans of `multiprocessing` children arrive, though `atexit` never runs there."""
    assert not run("multi", receiver.endpoint).stderr
    assert ids(receiver) == {"before": 1, "child1": 1, "child2": 1}


@pytest.mark.skipif(
    sys.version_info[:2] == (3, 12),
    reason="Python 3.12 starts no thread while it ends, so only the exporter bounds it",
)
@pytest.mark.parametrize("manner", ["refused", "hanging"])
def test_a_dead_collector_delays_neither_publishes_nor_the_end(
    receiver: Receiver, manner: str
) -> None:
    """When nobody takes the spans, publishing is as fast, and the process ends in time."""
    healthy = float(run("publish", receiver.endpoint).stdout)
    if manner == "hanging":
        receiver.behave(hang=True)
    endpoint = receiver.endpoint if manner == "hanging" else "http://127.0.0.1:9"
    started = time.monotonic()
    dead = run("publish", endpoint, 1)
    assert time.monotonic() - started < 1.0 + 40  # the exporter itself gives up after 100 s
    assert float(dead.stdout) < healthy * 5 + 5
    gives_up = manner == "refused" and Version("1.39") > Version(version(EXPORTER))
    said = "failed, retrying: ConnectionRefusedError" if gives_up else "ends with telemetry unsent"
    assert said in dead.stderr


class ProcessListener:
    def __init__(self) -> None:
        self.told: list[object] = []

    def became(self, role: Role, worker: object = None) -> None:
        del worker
        self.told.append(role)

    def worker_ended(self) -> None:
        self.told.append("worker ended")

    def ready(self) -> None:
        self.told.append("ready")

    def process_ending(self) -> None:
        self.told.append("ending")


def test_celery_tells_what_the_process_is() -> None:
    """A worker, its children and beat are known from Celery's signals, until we leave."""
    listener = ProcessListener()
    process = ProcessSignals(listener)
    process.subscribe()
    try:
        signals.worker_init.send(None)
        signals.worker_process_init.send(None)  # the solo pool: in the worker itself
        signals.worker_ready.send(None)
        signals.beat_init.send(None)
        signals.worker_process_shutdown.send(None)
        signals.worker_shutdown.send(None)
    finally:
        process.unsubscribe()
    signals.beat_init.send(None)
    assert listener.told == [Role.WORKER, "ready", Role.BEAT, "ready", "ending", "worker ended"]


class Scheduler:
    """What of beat's scheduler is looked at."""

    def __init__(self) -> None:
        self.ticks = 0

    def tick(self) -> float:
        self.ticks += 1
        return 1.0


@dataclass(frozen=True)
class Beat:
    """What of beat's service is looked at."""

    scheduler: Scheduler


def test_beat_is_ready_when_it_looks_at_its_schedule() -> None:
    """What I set up in a receiver of `beat_init` is there when taskobs says where all goes."""
    listener = ProcessListener()
    process, scheduler = ProcessSignals(listener), Scheduler()
    process.subscribe()
    try:
        signals.beat_init.send(Beat(scheduler))
        assert listener.told == [Role.BEAT]
        assert [scheduler.tick(), scheduler.tick()] == [1.0, 1.0]
        assert (listener.told, scheduler.ticks) == ([Role.BEAT, "ready"], 2)
    finally:
        process.unsubscribe()


def test_a_session_that_begins_in_a_receiver_knows_its_process() -> None:
    """I call `taskobs.init()` in a receiver of `worker_init`, and it knows of the worker."""
    listener = ProcessListener()
    process = ProcessSignals(listener)

    def set_up(**_: object) -> None:
        process.subscribe()

    signals.worker_init.connect(set_up, weak=False)
    try:
        signals.worker_init.send(None)
    finally:
        signals.worker_init.disconnect(set_up)
        process.unsubscribe()
    assert listener.told == [Role.WORKER]


FIRST_EXPORT = """
import sys
import taskobs
import celery.app.trace  # as any worker has
from celery import Celery
from taskobs.internal import import_lock

app = Celery("shop", broker="memory://", backend="cache+memory://")
session = taskobs.init()


@app.task
def boom():
    raise ValueError


class Noted:
    def find_spec(self, name, path=None, target=None):
        if not import_lock._forks.lock._is_owned():
            print(name)


app.finalize()
noted = Noted()
sys.meta_path.insert(0, noted)
boom.apply()
assert session.flush()
sys.meta_path.remove(noted)  # what the interpreter imports at its end is not the export's
"""


def test_the_first_export_imports_nothing_that_a_fork_may_interrupt(receiver: Receiver) -> None:
    """My worker forks a child while it exports, and no module's lock is held in the child."""
    env = {
        **os.environ,
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://localhost:{receiver.port}",
        "SENTRY_DSN": receiver.dsn,
    }
    done = subprocess.run(
        [sys.executable, "-c", FIRST_EXPORT],
        env=env,
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    noted = [name for name in done.stdout.split() if not name.startswith(("celery.", "kombu."))]
    assert noted == []
    assert receiver.spans
    assert receiver.events
