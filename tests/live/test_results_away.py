"""The result backend goes away in the middle: tasks go on, and what they did is told."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from taskobs import semconv
from tests.live import services
from tests.live.audit import AuditedShop, outcome
from tests.live.celery_process import Broker, LiveApp
from tests.live.process import LIMIT, wait_until
from tests.live.services import free_port
from tests.live.shop import QUICK

if TYPE_CHECKING:
    from pathlib import Path

    from taskobs.testing.receiver import Receiver

HASTY = {"retry_policy": {"max_retries": 2, "interval_start": 0, "interval_step": 0.1}}
CONFIG = {"result_backend_transport_options": HASTY, "redis_socket_connect_timeout": 1}
BATCH = """
sent = [app.add.apply_async((n, n), ignore_result=True) for n in range(4)]
sent.append(app.fail.apply_async(ignore_result=True))
result = [one.id for one in sent]
"""
CHORD = """
from celery import chord
header = [app.add.s(1, 1), app.hold.s(folder)]
given = chord(header, app.total.s()).apply_async()
result = [one.id for one in given.parent]
"""


@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_results_that_go_away_and_come_back(
    live: LiveApp, receiver: Receiver, redis_broker: Broker, tmp_path: Path, pool: str
) -> None:
    """My result backend stops while a chord is under way: each run is told, then and later."""
    port, env = free_port(), {**QUICK, "APP_CONFIG": json.dumps(CONFIG)}
    folders = [tmp_path / name for name in ("before", "after", "held")]
    for folder in folders:
        folder.mkdir()
    with services.redis(folders[0], port) as results:
        broker = Broker("redis", redis_broker.url, results.url())
        worker = live.worker(broker, pool=pool, env=env)
        shop = AuditedShop(live, broker, receiver, worker, live.producer(broker, env=env))
        quick, slow = shop.run(f"folder = {str(folders[2])!r}{CHORD}")
        assert outcome(shop.spans(quick, 2)[1]) == "succeeded"
        assert wait_until((folders[2] / slow).exists, timeout=LIMIT)
    (folders[2] / "go").touch()
    *fine, failed = shop.run(BATCH)
    for task_id in fine:
        assert outcome(shop.spans(task_id, 2)[1]) == "succeeded"
        assert shop.events(task_id, 0) == []
    assert outcome(shop.spans(failed, 2)[1]) == "failed"
    shop.events(failed, 1)
    publish, run = shop.spans(slow, 2)
    assert (run.parent_id, run.status) == (publish.span_id, "error")  # its result is lost
    shop.events(slow, 1)
    with services.redis(folders[1], port):
        # Not `get()`: redis-py subscribes anew on its own after a lost connection, so Celery's
        # result consumer never asks again for a result that was published in between.
        later = shop.run("result = app.add.delay(1, 2).id")
        assert outcome(shop.spans(later, 2)[1]) == "succeeded"
        assert shop.producer.close() == 0
        assert worker.stop() == 0
    told = [
        str(s.attributes[semconv.MESSAGING_MESSAGE_ID])
        for s in receiver.spans
        if s.kind == "consumer"
    ]
    assert sorted(told) == sorted([quick, slow, *fine, failed, later])
