"""The app's own MeterProvider: what tasks measure is exported once for a worker, and exactly."""

from __future__ import annotations

import json
from collections import Counter
from typing import TYPE_CHECKING

import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest

from tests.live.process import LIMIT, wait_until
from tests.live.test_metrics import (
    COUNTED,
    HARMLESS,
    PUBLISH,
    TaskLog,
    hold_measured,
    kill_relay,
    kill_the_slow,
    read,
)
from tests.support.export import Backend, backend

if TYPE_CHECKING:
    from pathlib import Path

    from taskobs.testing.receiver import Receiver
    from tests.live.celery_process import Broker, LiveApp

SLOW = 2
TASKS = {
    **dict.fromkeys(HARMLESS, 0),
    **dict.fromkeys(("fail", "expected", "again", "ignore", "reject", "publish"), 10),
    **dict.fromkeys(("soft", "hard"), 1),
    "ok": 60,
    "die": 4,
    "slow": SLOW,
}
RUNS = sum(TASKS.values()) + TASKS["again"] + 2 * TASKS["publish"] + TASKS["die"]
MEASURED = {"counted.runs", "counted.letters"}
IN_CHILDREN = {"APP_IN_CHILDREN": "1", "APP_DELTA": "1"}


def bodies(there: Backend) -> list[bytes]:
    """Give what was exported, without what a process was killed in the middle of."""
    with there.changed:
        return [
            request.body
            for request in there.requests
            if len(request.body) == int(request.headers["Content-Length"])
        ]


def of_counters(body: bytes) -> bytes:
    """Give an export without what each process exports for itself."""
    request = ExportMetricsServiceRequest.FromString(body)
    for scope in (scope for of in request.resource_metrics for scope in of.scope_metrics):
        kept = [metric for metric in scope.metrics if metric.name in MEASURED]
        del scope.metrics[:]
        scope.metrics.extend(kept)
    for of in request.resource_metrics:
        full = [scope for scope in of.scope_metrics if scope.metrics]
        del of.scope_metrics[:]
        of.scope_metrics.extend(full)
    full_of = [of for of in request.resource_metrics if of.scope_metrics]
    del request.resource_metrics[:]
    request.resource_metrics.extend(full_of)
    return bytes(request.SerializeToString())


def summed(found: list[bytes]) -> Counter[str]:
    """Add up the deltas of the counter of runs, by kind."""
    sums: Counter[str] = Counter()
    for body in found:
        for (name, labels), value in read([body]).values.items():
            if name == "counted.runs":
                sums[dict(labels)["kind"]] += int(value)
    return sums


@pytest.mark.parametrize(
    ("pool", "more"), [("prefork", {}), ("prefork", IN_CHILDREN), ("spawn", {})], ids=repr
)
def test_what_tasks_measure_is_exact_whatever_is_killed(
    live: LiveApp,
    receiver: Receiver,
    redis_broker: Broker,
    tmp_path: Path,
    *,
    pool: str,
    more: dict[str, str],
) -> None:
    """My children are recycled and killed, and the relay too: my own backend has exact sums."""
    task_log = TaskLog(tmp_path / "task_log")
    with backend() as there:
        env = {
            "APP_METRICS": there.endpoint,
            "APP_TASK_LOG": str(tmp_path / "task_log"),
            "APP_CONFIG": json.dumps({"worker_lost_wait": 0.5}),
            **more,
        }
        worker = live.worker(
            redis_broker,
            f"--max-tasks-per-child={12 if pool == 'prefork' else 60}",
            app=COUNTED,
            pool=pool,
            concurrency=2,
            env=env,
        )
        producer = live.producer(redis_broker, app=COUNTED, env=env)
        producer.run(PUBLISH.format(tasks=TASKS))
        killed: set[int] = set()

        def ran(number: int) -> bool:
            kill_the_slow(task_log, killed)
            return task_log.runs().total() >= number

        assert wait_until(lambda: ran(RUNS // 2), timeout=2 * LIMIT), worker.tail()
        if "APP_DELTA" not in more:  # what a killed relay has just sent as deltas may come again
            kill_relay(worker)
        assert wait_until(lambda: ran(RUNS), timeout=2 * LIMIT), worker.tail()
        assert worker.stop() == 0
        runs = task_log.runs()
        assert runs.total() == RUNS
        assert len(killed) == SLOW
        counted = [of_counters(body) for body in bodies(there)]
        found = read(counted)
        if more:
            assert summed(counted) == runs
        else:
            hold_measured(found, runs, "counted.letters")
            assert len({at for starts in found.starts.values() for at in starts}) == 1
        assert len(found.instances) == 1  # one set of series
        resources = {
            tuple(sorted((one.key, one.value.string_value) for one in of.resource.attributes))
            for body in counted
            for of in ExportMetricsServiceRequest.FromString(body).resource_metrics
        }
        assert [dict(one)["service.name"] for one in resources] == ["own"]
        assert not any("worker" in dict(one) for one in resources)  # the id of a process
        keys = {request.headers.get("x-key") for request in there.requests}
        assert keys == {"secret"}
        # What is no sum is exported by each process, as before.
        assert bool(read(bodies(there)).of("counted.level", "")) == bool(more)
    ours = [one.body for one in receiver.requests if one.path == "/v1/metrics"]
    assert not read(ours).of("counted.runs", "")
    producer.close()


@pytest.mark.parametrize("how", ["threads", "relay_providers off"])
def test_a_reader_that_is_left_alone_exports_by_itself(
    live: LiveApp, redis_broker: Broker, tmp_path: Path, how: str
) -> None:
    """My worker has threads, or I turn it off: my reader exports as without taskobs."""
    task_log = TaskLog(tmp_path / "task_log")
    with backend() as there:
        env = {"APP_METRICS": there.endpoint, "APP_TASK_LOG": str(tmp_path / "task_log")}
        threads = how == "threads"
        if not threads:
            env["TASKOBS_RELAY_PROVIDERS"] = "0"
        pool = "threads" if threads else "prefork"
        worker = live.worker(
            redis_broker, app=COUNTED, pool=pool, concurrency=4 if threads else 1, env=env
        )
        producer = live.producer(redis_broker, app=COUNTED, env=env)
        tasks = {**dict.fromkeys(HARMLESS, 0), "ok": 40, "fail": 10}
        producer.run(PUBLISH.format(tasks=tasks))

        def arrived() -> object:
            return read(of_counters(body) for body in bodies(there)).of("counted.runs", "kind")

        assert wait_until(lambda: arrived() == {"ok": 40.0, "fail": 10.0}, timeout=LIMIT)
        assert worker.stop() == 0
        hold_measured(
            read(of_counters(body) for body in bodies(there)), task_log.runs(), "counted.letters"
        )
        producer.close()
