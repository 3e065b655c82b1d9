"""Batches of messages: who sends the signals of a run itself has runs that end, too."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import pytest

from taskobs import semconv
from tests.live.audit import outcome
from tests.live.celery_process import LiveApp
from tests.live.process import LIMIT
from tests.live.shop import QUICK, Shop, tags, trace_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from taskobs.testing.receiver import Receiver
    from taskobs.testing.wire import ReceivedSpan
    from tests.live.celery_process import Broker

pytest.importorskip(
    "celery_batches", reason="celery-batches is not installed: pip install --no-deps celery-batches"
)
BATCHES = "tests.live.apps.batches"
POOLS = ("prefork", "spawn", "solo", "threads", "gevent", "eventlet")
CONFIG = {
    "worker_log_format": "task=%(task_id)s %(message)s",
    "worker_prefetch_multiplier": 0,  # else no batch is larger than what one child may fetch
}
LINE = re.compile(r"task=(\S*) .*a batch of 5")


def batch_of(shop: Shop, args: Sequence[str]) -> tuple[list[str], ReceivedSpan]:
    """Publish five messages and wait for the batch that they make; give their ids and its run."""
    source = f"result = [app.index.delay(order).id for order in {list(args)!r}]"
    ids = shop.run(source)
    publishes = [shop.spans(task_id, 1)[0] for task_id in ids]
    addresses = {(publish.trace_id, publish.span_id) for publish in publishes}

    def runs() -> list[ReceivedSpan]:
        return [
            span
            for span in shop.receiver.spans
            if {(link.trace_id, link.span_id) for link in span.links} == addresses
        ]

    assert shop.receiver.wait_for(lambda _: bool(runs()), LIMIT), shop.worker.tail()
    [run] = runs()
    return ids, run


@pytest.mark.neighbour("celery-batches")
@pytest.mark.row("batches", whole=True)
@pytest.mark.parametrize("pool", POOLS)
def test_a_batch_is_a_run(
    live: LiveApp, redis_broker: Broker, receiver: Receiver, pool: str
) -> None:
    """My batches begin and end, linked to who published their messages, and their failures come."""
    env = {**QUICK, "APP_CONFIG": json.dumps(CONFIG)}
    worker = live.worker(redis_broker, pool=pool, concurrency=1, app=BATCHES, env=env)
    producer = live.producer(redis_broker, app=BATCHES, env=env)
    shop = Shop(live, redis_broker, receiver, worker, producer)
    good, run = batch_of(shop, "abcde")
    assert (run.name, run.kind, run.parent_id) == (f"run {BATCHES}.index", "consumer", "")
    assert (run.status, outcome(run)) == ("unset", "succeeded")
    assert run.attributes[semconv.MESSAGING_BATCH_COUNT] == 5
    assert run.attributes[semconv.MESSAGING_DESTINATION_NAME] == "celery"
    batch_id = str(run.attributes[semconv.MESSAGING_MESSAGE_ID])
    assert batch_id not in good
    assert LINE.findall(worker.log) == [batch_id]
    _, failed = batch_of(shop, ["a", "bad", "c", "d", "e"])
    assert (failed.status, outcome(failed)) == ("error", "failed")
    assert failed.attributes[semconv.ERROR_TYPE] == "KeyError"
    failed_id = str(failed.attributes[semconv.MESSAGING_MESSAGE_ID])
    [event] = shop.events(failed_id, 1)
    assert trace_of(event) == (failed.trace_id, failed.span_id)
    assert tags(event)[semconv.TAG_TASK] == f"{BATCHES}.index"
    later = shop.call("add.delay(1, 2)")
    _, after = shop.spans(later, 2)
    assert after.trace_id not in {run.trace_id, failed.trace_id}
    producer.close()
    assert worker.stop() == 0
    batches = [span for span in receiver.spans if span.name == run.name]
    assert len(batches) == 2
    assert len(receiver.events) == 1


@pytest.mark.parametrize("relay", ["0", "1"])
def test_a_thousand_batches_leave_nothing(
    live: LiveApp, redis_broker: Broker, receiver: Receiver, relay: str
) -> None:
    """My pool child has run a thousand batches, and a task of it that fails is one event."""
    env = {**QUICK, "TASKOBS_RELAY": relay, "APP_CONFIG": json.dumps(CONFIG)}
    worker = live.worker(redis_broker, concurrency=1, app=BATCHES, env=env)
    producer = live.producer(redis_broker, app=BATCHES, env=env)
    shop = Shop(live, redis_broker, receiver, worker, producer)
    shop.run("for number in range(1_000): app.alone.delay(str(number))")

    def batches() -> list[ReceivedSpan]:
        return [span for span in receiver.spans if span.name == f"run {BATCHES}.alone"]

    assert receiver.wait_for(lambda _: len(batches()) >= 1_000, LIMIT), len(batches())
    assert {span.attributes[semconv.MESSAGING_BATCH_COUNT] for span in batches()} == {1}
    failed = shop.run("result = app.app.send_task('tests.live.apps.shop.fail').id")
    [_, run] = shop.spans(failed, 2)
    [event] = shop.events(failed, 1)
    assert trace_of(event) == (run.trace_id, run.span_id)
    assert "RecursionError" not in worker.log
    assert {outcome(span) for span in receiver.spans if span.name.startswith("run ")} == {
        "succeeded",
        "failed",
    }
