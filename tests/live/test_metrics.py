"""What a worker counts is exact, whatever is killed: held to what its tasks wrote down."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections import Counter
from typing import TYPE_CHECKING, NamedTuple
from urllib.request import Request, urlopen

import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest

from taskobs import semconv
from tests.live.process import LIMIT, wait_until
from tests.live.services import free_port
from tests.live.test_relay import children, is_relay

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from taskobs.testing.receiver import Receiver
    from tests.live.celery_process import Broker, LiveApp, Worker

COUNTED = "tests.live.apps.counted"
KILLED = 5
TASKS = {
    "ok": 400,
    "fail": 150,
    "expected": 80,
    "again": 100,
    "ignore": 50,
    "reject": 50,
    "publish": 80,
    "die": 12,
    "soft": 6,
    "hard": 4,
    "slow": KILLED,
    "revoked": 20,
    "expired": 20,
    "unknown": 20,
}
"""1,000 messages of each outcome, and what they publish themselves."""
HARMLESS = {**dict.fromkeys(TASKS, 40), "die": 0, "soft": 0, "hard": 0, "slow": 0}
"""The same where a kill would end the worker, and time limits need processes."""
PUBLISH = """
import random, time
ids = [f"revoked-{{n}}" for n in range({tasks}.get("revoked", 0))]
app.app.control.revoke(ids, reply=True, timeout=10)
order = [kind for kind, number in {tasks}.items() for _ in range(number)]
random.Random(7).shuffle(order)
for kind in order:
    if kind == "revoked":
        app.never.apply_async(task_id=ids.pop())
    elif kind == "expired":
        app.never.apply_async(expires=-10)
    elif kind == "unknown":
        app.app.send_task("tests.live.apps.counted.missing")
    else:
        getattr(app, kind).delay()
result = len(order)
"""
INTERVAL = {"OTEL_METRIC_EXPORT_INTERVAL": "500"}
Series = tuple[str, frozenset[tuple[str, str]]]


class Found(NamedTuple):
    """The latest value of each series, and the resources and starting times that there were."""

    values: dict[Series, float]
    instances: set[str]
    starts: dict[str, set[int]]
    buckets: dict[str, list[int]]
    """Of histograms that have one series."""

    def of(self, metric: str, *by: str) -> dict[object, float]:
        """Sum a metric by attributes; the names of tasks without their module."""
        sums: dict[object, float] = {}
        for (name, labels), value in self.values.items():
            if name == metric:
                given = {key: text.removeprefix(f"{COUNTED}.") for key, text in labels}
                key = tuple(given.get(one, "") for one in by)
                whole = key[0] if len(key) == 1 else key
                sums[whole] = sums.get(whole, 0) + value
        return sums


def arrived(receiver: Receiver, *, last: bool = False) -> Found:
    """Read all metrics that a worker has sent, or the last: each has all that was counted."""
    bodies = [one.body for one in receiver.requests if one.path == "/v1/metrics"]
    return read(bodies[-1:] if last else bodies)


def read(bodies: Iterable[bytes]) -> Found:
    """Read exports, the earliest first."""
    found = Found({}, set(), {}, {})
    for body in bodies:
        for resource in ExportMetricsServiceRequest.FromString(body).resource_metrics:
            attributes = {one.key: one.value.string_value for one in resource.resource.attributes}
            found.instances.add(attributes["service.instance.id"])
            for metric in (one for scope in resource.scope_metrics for one in scope.metrics):
                kind = metric.WhichOneof("data") or ""
                for point in getattr(metric, kind).data_points:
                    labels = frozenset(
                        (one.key, one.value.string_value or str(one.value.bool_value))
                        for one in point.attributes
                    )
                    value = point.count if kind == "histogram" else _number(point)
                    found.values[metric.name, labels] = value
                    if kind == "histogram":
                        found.buckets[metric.name] = list(point.bucket_counts)
                    if kind != "gauge":
                        found.starts.setdefault(metric.name, set()).add(point.start_time_unix_nano)
    return found


def _number(point: object) -> float:
    return float(getattr(point, str(point.WhichOneof("value"))))  # type: ignore[attr-defined]


class TaskLog:
    """What the tasks wrote down."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def lines(self, *words: str) -> list[list[str]]:
        """Give the lines that begin with some words."""
        text = self._path.read_text() if self._path.exists() else ""
        split = map(str.split, text.splitlines())
        return [line for line in split if line[: len(words)] == [*words]]

    def runs(self) -> Counter[str]:
        """Count the runs by task."""
        return Counter(line[1] for line in self.lines("run"))


def kill_the_slow(task_log: TaskLog, killed: set[int]) -> None:
    """Kill each process that says that it waits for that."""
    for line in task_log.lines("run", "slow"):
        pid = int(line[-1])
        if pid not in killed:
            killed.add(pid)
            os.kill(pid, signal.SIGKILL)


def kill_relay(worker: Worker) -> None:
    """Kill the worker's relay, and wait for the next one."""
    [relay] = filter(is_relay, children(worker.pid))
    os.kill(relay, signal.SIGKILL)
    assert wait_until(
        lambda: any(pid != relay and is_relay(pid) for pid in children(worker.pid)), timeout=LIMIT
    )


def ended(receiver: Receiver) -> float:
    """Count the messages that the worker says have ended."""
    found = arrived(receiver, last=True)
    return sum(found.of(semconv.METRIC_TASK_DURATION, "").values()) + sum(
        found.of(semconv.METRIC_TASK_DISCARDED, "").values()
    )


def expected_outcomes(runs: Counter[str]) -> dict[tuple[str, str], int]:
    """Give the runs by task and outcome that the tasks' lines amount to."""
    plain = {
        "ok": "succeeded",
        "publish": "succeeded",
        "fail": "failed",
        "expected": "failed",
        "soft": "failed",
        "ignore": "ignored",
        "reject": "rejected",
        "die": "lost",
        "hard": "lost",
        "slow": "lost",
    }
    found = {(kind, outcome): runs[kind] for kind, outcome in plain.items() if runs[kind]}
    half = runs["again"] // 2
    return {**found, ("again", "retried"): half, ("again", "succeeded"): half}


def hold(found: Found, task_log: TaskLog, tasks: dict[str, int]) -> None:
    """Hold each counter to what the tasks wrote down."""
    runs = task_log.runs()
    by_outcome = found.of(
        semconv.METRIC_TASK_DURATION, semconv.CELERY_TASK_NAME, semconv.CELERY_OUTCOME
    )
    assert by_outcome == expected_outcomes(runs)
    discarded = found.of(semconv.METRIC_TASK_DISCARDED, semconv.CELERY_OUTCOME)
    assert discarded == {kind: tasks[kind] for kind in ("expired", "unknown", "revoked")}
    assert found.of(semconv.METRIC_TASK_DISCARDED, semconv.CELERY_TASK_NAME) == {
        "never": tasks["revoked"] + tasks["expired"],
        "": tasks["unknown"],
    }
    received = found.of(semconv.METRIC_TASK_RECEIVED, semconv.CELERY_TASK_NAME)
    assert received == {**runs, "never": tasks["revoked"] + tasks["expired"]}
    assert sum(found.of(semconv.METRIC_TASK_RETRIES, "").values()) == tasks["again"]
    failures = found.of(semconv.METRIC_TASK_FAILURES, semconv.CELERY_TASK_NAME)
    failing = {"fail", "expected", "soft", "die", "hard", "slow"}
    assert failures == {kind: runs[kind] for kind in failing if runs[kind]}
    waits = found.of(semconv.METRIC_TASK_QUEUE_WAIT, semconv.CELERY_TASK_NAME)
    assert waits == dict(runs)
    assert found.of(semconv.METRIC_TASK_PREFETCH_WAIT, semconv.CELERY_QUEUE) == {
        "celery": runs.total()
    }
    published = found.of(semconv.METRIC_TASK_PUBLISHED, semconv.CELERY_TASK_NAME)
    again = {"again": tasks["again"]}
    assert published == {"ok": len(task_log.lines("published", "ok")), **again}
    hold_measured(found, runs, "counted.length")
    assert len(found.instances) == 1
    starts = {
        at
        for name in found.starts
        if name.startswith(("celery.", "counted."))
        for at in found.starts[name]
    }
    assert len(starts) == 1  # one set of series, also over relays


def hold_measured(found: Found, runs: Counter[str], lengths: str) -> None:
    """Hold what the tasks measured to the runs that they wrote down."""
    assert found.of("counted.runs", "kind", "late") == {
        (kind, "False"): number for kind, number in runs.items()
    }
    assert found.of(lengths, "") == {"": runs.total()}
    assert found.buckets[lengths] == [
        sum(number for kind, number in runs.items() if low < len(kind) <= high)
        for low, high in ((0, 3), (3, 5), (5, 99))
    ]


@pytest.mark.parametrize("relay", ["1", "0"], ids=["relay", "no relay"])
def test_counts_are_exact_whatever_is_killed(
    relay: str, live: LiveApp, redis_broker: Broker, receiver: Receiver, tmp_path: Path
) -> None:
    """I run 1,000 tasks that end in each way, and children and the relay die: all is counted."""
    tasks = TASKS
    task_log = TaskLog(tmp_path / "task_log")
    config = {"worker_lost_wait": 0.5}
    env = {
        **INTERVAL,
        "TASKOBS_RELAY": relay,
        "APP_TASK_LOG": str(tmp_path / "task_log"),
        "APP_CONFIG": json.dumps(config),
    }
    worker = live.worker(
        redis_broker,
        "--max-tasks-per-child=25",
        app=COUNTED,
        concurrency=4,
        env=env,
    )
    producer = live.producer(
        redis_broker, app=COUNTED, env={**env, "OTEL_METRICS_EXPORTER": "none"}
    )
    producer.run(PUBLISH.format(tasks=tasks))
    killed: set[int] = set()
    goal = sum(tasks.values()) + tasks["again"] + 2 * tasks["publish"] + tasks["die"]
    kills = [0.2 * goal, 0.6 * goal] if relay == "1" else []

    def done() -> bool:
        kill_the_slow(task_log, killed)
        count = ended(receiver)
        if kills and count > kills[0]:
            del kills[0]
            kill_relay(worker)
        return count >= goal

    assert wait_until(done, timeout=300, tick=0.25), (ended(receiver), goal, worker.tail())
    assert worker.stop() == 0
    found = arrived(receiver)
    hold(found, task_log, tasks)
    exits = found.of(semconv.METRIC_WORKER_PROCESS_EXITS, semconv.CELERY_REASON)
    assert exits["signal"] == tasks["die"] + len(killed)
    assert exits["limit"] == tasks["hard"]
    assert exits["recycled"] > 0
    assert not kills


@pytest.mark.parametrize("pool", ["threads", "gevent", "solo", "spawn"])
def test_counts_are_exact_on_each_pool(
    pool: str, live: LiveApp, redis_broker: Broker, receiver: Receiver, tmp_path: Path
) -> None:
    """I run my tasks in threads or greenlets, or one after the other: all is counted."""
    task_log = TaskLog(tmp_path / "task_log")
    env = {**INTERVAL, "APP_TASK_LOG": str(tmp_path / "task_log")}
    worker = live.worker(redis_broker, app=COUNTED, pool=pool, concurrency=8, env=env)
    producer = live.producer(
        redis_broker, app=COUNTED, env={**env, "OTEL_METRICS_EXPORTER": "none"}
    )
    producer.run(PUBLISH.format(tasks=HARMLESS))
    goal = sum(HARMLESS.values()) + HARMLESS["again"] + 2 * HARMLESS["publish"]
    assert wait_until(lambda: ended(receiver) >= goal, timeout=LIMIT), worker.tail()
    assert worker.stop() == 0
    hold(arrived(receiver), task_log, HARMLESS)


def scrape(port: int, accept: str = "") -> str:
    """Read what Prometheus would read."""
    request = Request(f"http://127.0.0.1:{port}/metrics", headers={"Accept": accept})  # ours
    with urlopen(request, timeout=LIMIT) as response:  # noqa: S310  # same
        return str(response.read().decode())


def answers(port: int) -> bool:
    """Tell whether the worker answers a scraper, with what it has counted."""
    try:
        return "celery_task_received_total{" in scrape(port)
    except OSError:
        return False


@pytest.mark.parametrize("relay", ["1", "0", "alone"], ids=["relay", "no relay", "alone"])
def test_prometheus_scrapes_a_worker(
    relay: str, live: LiveApp, redis_broker: Broker, tmp_path: Path
) -> None:
    """Prometheus scrapes my worker; its relay is killed; a second worker finds the port taken."""
    port = free_port()
    env = {
        "TASKOBS_RELAY": relay.replace("alone", "1"),
        "TASKOBS_METRICS_PORT": str(port),
        "APP_TASK_LOG": str(tmp_path / "task_log"),
        "OTEL_METRICS_EXPORTER": "none",
    }
    if relay == "alone":  # neither traces nor errors
        env |= {"OTEL_EXPORTER_OTLP_ENDPOINT": "", "SENTRY_DSN": ""}
    worker = live.worker(redis_broker, app=COUNTED, env=env)
    producer = live.producer(redis_broker, app=COUNTED, env=env)
    producer.run("[app.ok.delay() for _ in range(20)]; app.fail.delay(); result = 1")
    count = 'celery_task_duration_seconds_count{celery_outcome="succeeded"'
    assert wait_until(lambda: answers(port) and count in scrape(port), timeout=LIMIT), worker.tail()
    if relay != "0":
        kill_relay(worker)
        assert wait_until(lambda: answers(port), timeout=LIMIT), worker.tail()
    found = f'celery_queue="celery",celery_task_name="{COUNTED}.ok"}} 20.0'
    assert wait_until(lambda: f"celery_task_received_total{{{found}" in scrape(port), timeout=LIMIT)
    labels = 'kind="ok",late="false",otel_scope_name="counted",otel_scope_version="1.5"'
    assert wait_until(lambda: f"counted_runs_total{{{labels}}} 20.0" in scrape(port), timeout=LIMIT)
    text = scrape(port)
    assert 'counted_length_bytes_bucket{le="3.0",' in text
    for metric in ("celery_worker_heartbeat_seconds", "celery_worker_pool_limit"):
        assert f"\n{metric} " in text
    assert 'celery_worker_memory_bytes{process="pool"}' in text
    checked = subprocess.run(  # a tool of this machine
        ["promtool", "check", "metrics"], input=text, text=True, capture_output=True, check=False
    )
    assert checked.returncode == 0, checked.stderr
    assert "celery_task_queue_wait_seconds_count{" in text
    exemplars = "trace_id=" in scrape(port, "application/openmetrics-text; version=1.0.0")
    assert exemplars == (relay != "alone")
    second = live.worker(redis_broker, app=COUNTED, env=env)
    said = f"no metrics for Prometheus: metrics can't be served at 127.0.0.1:{port}"
    assert wait_until(lambda: said in second.log, timeout=LIMIT), second.tail()
    assert second.stop() == worker.stop() == 0
    # A relay ends a moment after its worker.
    assert wait_until(lambda: not answers(port), timeout=LIMIT)
