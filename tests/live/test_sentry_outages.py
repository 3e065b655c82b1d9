"""Trouble of a worker that Celery reports several times over: one tagged event for each run."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from redis import Redis

from taskobs import semconv
from tests.live import services
from tests.live.celery_process import Broker, LiveApp
from tests.live.process import LIMIT
from tests.live.shop import QUICK, tags

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from taskobs.testing.receiver import Receiver

ERRORS = "tests.live.apps.errors"
HASTY = {"retry_policy": {"max_retries": 1, "interval_start": 0, "interval_step": 0.1}}
CONFIG = {"APP_CONFIG": json.dumps({"result_backend_transport_options": HASTY})}
RUNS = 30


@pytest.mark.parametrize("pool", ["prefork", "solo"])
def test_a_task_without_memory_is_one_event(
    live: LiveApp, receiver: Receiver, redis_broker: Broker, pool: str
) -> None:
    """A MemoryError ends my worker, and Sentry has it once, with the run's tags."""
    worker = live.worker(redis_broker, pool=pool, app=ERRORS, env=QUICK)
    producer = live.producer(redis_broker, app=ERRORS, env=QUICK)
    task_id = producer.run("result = app.out_of_memory.delay().id")
    worker.wait(timeout=LIMIT)
    assert producer.close() == 0
    assert [tags(event).get(semconv.TAG_TASK_ID) for event in receiver.events] == [task_id]


def has_no_room(redis: Any) -> None:
    redis.config_set("maxmemory", 1)


def is_read_only(redis: Any) -> None:
    redis.slaveof(services.HOST, services.free_port())


@pytest.mark.parametrize("refuse", [has_no_room, is_read_only])
def test_results_that_are_refused_are_one_event_a_run(
    live: LiveApp,
    receiver: Receiver,
    redis_broker: Broker,
    tmp_path: Path,
    refuse: Callable[[Any], None],
) -> None:
    """My result backend takes no writes: each run is one tagged event, a killed one too."""
    port = services.free_port()
    with services.redis(tmp_path, port) as results:
        broker = Broker("redis", redis_broker.url, results.url())
        env = {**QUICK, **CONFIG}
        worker = live.worker(broker, app=ERRORS, env=env)
        producer = live.producer(broker, app=ERRORS, env=env)
        refuse(Redis(services.HOST, port))
        source = f"sent = [app.add.delay(1, n) for n in range({RUNS - 1})]\n"
        ids = producer.run(f"{source}sent.append(app.die.delay())\nresult = [s.id for s in sent]")
        assert receiver.wait_for(lambda r: len(r.events) >= RUNS, LIMIT)
        assert producer.close() == 0
        worker.stop()
    found = [str(tags(event).get(semconv.TAG_TASK_ID)) for event in receiver.events]
    assert sorted(found) == sorted(ids)
