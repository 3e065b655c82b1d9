"""The first part: what a real worker, its producer and the monitor send for a thousand tasks."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from redis import Redis

from bench.workers import redis_server, wait_until
from taskobs.semconv import (
    METRIC_TASK_DURATION,
    METRIC_TASK_PREFETCH_WAIT,
    METRIC_TASK_QUEUE_WAIT,
)
from taskobs.testing.http_server import METRICS, TRACES
from tools.scale import app_shape
from tools.scale.counting import Arrival, CountingServer, Received
from tools.scale.servers import APP, program, publish, wait_quiet, worker

TASKS: Final = 1000
QUEUE: Final = "celery"
POLL: Final = 2.0
POLLS: Final = 3


@dataclass(frozen=True)
class Setup:
    """How a worker is set up, and what it runs."""

    env: Mapping[str, str]
    names: int = 1
    spans: int = 0
    failing: bool = False


_GZIP: Final = {"OTEL_EXPORTER_OTLP_COMPRESSION": "gzip"}
_TENTH: Final = {"OTEL_TRACES_SAMPLER_ARG": "0.1"}
_BOUNDS: Final = [0.1, 1, 10]
_BUCKETS: Final = {
    "TASKOBS_METRIC_BUCKETS": json.dumps(
        dict.fromkeys(
            (METRIC_TASK_DURATION, METRIC_TASK_QUEUE_WAIT, METRIC_TASK_PREFETCH_WAIT), _BOUNDS
        )
    )
}
_KEEP: Final = {"TASKOBS_KEEP": "failed"}
SETUPS: Final[Mapping[str, Setup]] = {
    "all succeed": Setup({}),
    "all succeed, gzip": Setup(_GZIP),
    "5 % fail": Setup({}, failing=True),
    "5 % fail, gzip": Setup(_GZIP, failing=True),
    "5 % fail, `sample_rate=0.1`": Setup(_TENTH, failing=True),
    "5 % fail, `sample_rate=0.1`, `keep=failed`": Setup({**_TENTH, **_KEEP}, failing=True),
    "four spans inside, 5 % fail": Setup({}, spans=app_shape.INSIDE, failing=True),
    "four spans inside, 5 % fail, gzip": Setup(_GZIP, spans=app_shape.INSIDE, failing=True),
    "5 % fail, `logs=otlp`": Setup({"TASKOBS_LOGS": "otlp"}, failing=True),
    "5 % fail, 20 names": Setup({}, names=app_shape.NAMES, failing=True),
    "5 % fail, 20 names, 3 buckets": Setup(_BUCKETS, names=app_shape.NAMES, failing=True),
}
ONE: Final = "5 % fail"
GZIP: Final = "5 % fail, gzip"
INSIDE: Final = "four spans inside, 5 % fail"
INSIDE_GZIP: Final = "four spans inside, 5 % fail, gzip"
NAMED: Final = "5 % fail, 20 names"
FEW_BUCKETS: Final = "5 % fail, 20 names, 3 buckets"


@dataclass(frozen=True)
class Broker:
    """What Redis is asked."""

    bare_message: float
    """Bytes that Redis reads for a publish without taskobs."""
    message: float
    """… with it."""
    poll_commands: float
    """Commands for one poll of `taskobs monitor`."""
    poll_read: float
    """Bytes that Redis reads for one poll."""
    poll_written: float
    """Bytes that it answers."""


@dataclass(frozen=True)
class Worker:
    """All of the first part."""

    workers: dict[str, Received]
    producers: dict[str, Received]
    broker: Broker


def measure() -> Worker:
    """Run a worker of each set-up, one after the other."""
    workers: dict[str, Received] = {}
    producers: dict[str, Received] = {}
    with redis_server() as url:
        for number, (name, setup) in enumerate(SETUPS.items()):
            print(f"worker: {name}", file=sys.stderr, flush=True)
            workers[name], producers[name], _ = run(setup, f"{url}/{number}", TASKS)
        return Worker(workers, producers, _broker(f"{url}/15"))


def run(setup: Setup, url: str, tasks: int) -> tuple[Received, Received, list[Arrival]]:
    """Run tasks; gives what worker and producer sent, and the worker's requests."""
    with CountingServer() as theirs, CountingServer() as producers:
        with worker({**_telemetry(theirs), **setup.env, "SCALE_BROKER": url}):
            env = {**_telemetry(producers), **setup.env, "SCALE_BROKER": url}
            publish(tasks, names=setup.names, spans=setup.spans, failing=setup.failing, env=env)
            broker = _redis(url)
            wait_until(lambda: not broker.llen(QUEUE) and not broker.hlen("unacked"))
            broker.close()
            wait_quiet(lambda: theirs.last)
        return theirs.received(), producers.received(), theirs.arrivals


def sample(tasks: int = 400) -> bytes:
    """Give a request of spans as a real worker's relay sends it, the one with the most of them."""
    with redis_server() as url:
        _, _, arrivals = run(SETUPS[INSIDE], f"{url}/0", tasks)
    return max((one.body for one in arrivals if one.path == TRACES), key=len)


def _telemetry(server: CountingServer) -> dict[str, str]:
    return {"OTEL_EXPORTER_OTLP_ENDPOINT": server.endpoint, "SENTRY_DSN": server.dsn}


def _redis(url: str) -> Any:  # noqa: ANN401  # its types are not worth the name
    return Redis.from_url(url)  # pyright: ignore[reportUnknownMemberType]


def _broker(url: str) -> Broker:
    print("broker", file=sys.stderr, flush=True)
    redis = _redis(url)
    with CountingServer() as server:
        env = {**_telemetry(server), "SCALE_BROKER": url}
        bare = _message(redis, {**env, "SCALE_BARE": "1"})
        ours = _message(redis, env)
        redis.delete(QUEUE)
        with worker(env):
            time.sleep(POLL)
            began = time.monotonic()
            before = _asked(redis)
            time.sleep(POLL * POLLS)
            idle = _rates(before, _asked(redis), time.monotonic() - began)
            polled = _monitored(redis, server, env)
    per_poll = [(with_it - without) * POLL for with_it, without in zip(polled, idle, strict=True)]
    redis.close()
    return Broker(bare, ours, *per_poll)


def _monitored(
    redis: Any,  # noqa: ANN401  # same
    server: CountingServer,
    env: Mapping[str, str],
) -> list[float]:
    """Give what Redis is asked each second while the monitor polls it."""
    command = [sys.executable, "-m", "taskobs", "monitor", "-A", APP, "--interval", str(POLL)]
    server.arrivals.clear()
    whose = {**env, "OTEL_SERVICE_NAME": "monitor"}
    with program(*command, env=whose) as log:
        wait_until(lambda: _exports(server) >= 1 or "Error" in log())
        began, before = time.monotonic(), _asked(redis)
        time.sleep(POLL * POLLS)
        return _rates(before, _asked(redis), time.monotonic() - began)


def _exports(server: CountingServer) -> int:
    return sum(b"monitor" in one.body for one in server.arrivals if one.path == METRICS)


def _message(redis: Any, env: Mapping[str, str]) -> float:  # noqa: ANN401  # same
    before = _asked(redis)
    publish(TASKS, names=1, spans=0, failing=False, env=env)
    return (_asked(redis)[1] - before[1]) / TASKS


def _asked(redis: Any) -> list[float]:  # noqa: ANN401  # same
    """Give commands, bytes read and bytes written so far."""
    found = redis.info("stats")
    names = ("total_commands_processed", "total_net_input_bytes", "total_net_output_bytes")
    return [float(found[name]) for name in names]


def _rates(before: list[float], after: list[float], seconds: float) -> list[float]:
    return [(new - old) / seconds for old, new in zip(before, after, strict=True)]
