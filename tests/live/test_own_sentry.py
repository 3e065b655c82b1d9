"""The outcome table for somebody who calls ``sentry_sdk.init()`` himself."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from taskobs import semconv
from tests.live.audit import WAREHOUSE, outcome
from tests.live.process import LIMIT
from tests.live.shop import tags, trace_of

if TYPE_CHECKING:
    from taskobs.testing.receiver import Receiver
    from tests.live.celery_process import Broker, LiveApp

OWN = "tests.live.apps.own_sentry"
CARD = "4111-1111-1111-1111"


@pytest.mark.parametrize("pool", ["prefork", "solo"])
@pytest.mark.parametrize("order", ["before", "after", "after, with a DSN for taskobs"])
def test_one_event_each(
    live: LiveApp, receiver: Receiver, redis_broker: Broker, order: str, pool: str
) -> None:
    """I initialise Sentry myself: a failure is still one event, tagged and of its trace."""
    env = {"APP_SENTRY_INIT": order.partition(",")[0], "APP_SENTRY_DSN": receiver.dsn}
    if "DSN" not in order:
        del live.env["SENTRY_DSN"]
    worker = live.worker(redis_broker, "-I", WAREHOUSE, pool=pool, app=OWN, env=env)
    producer = live.producer(redis_broker, app=OWN, env=env)
    source = f"""
ids = []
for _ in range(2):
    sent = app.app.send_task("{WAREHOUSE}.charge", ("{CARD}",), {{"code": "{CARD}"}})
    sent.get(timeout=90, propagate=False)
    ids.append(sent.id)
for quiet in (app.add.delay(1, 2), app.expected.delay(), app.retry_then_ok.delay(1)):
    quiet.get(timeout=90, propagate=False)
app.ignore.delay(), app.reject.delay()
result = ids
"""
    ids = producer.run(source)
    assert receiver.wait_for(lambda r: len(r.events) >= 2, LIMIT)
    assert producer.close() == 0
    assert worker.stop() == 0
    reported = [str(tags(event).get(semconv.TAG_TASK_ID)) for event in receiver.events]
    assert sorted(reported) == sorted(ids)
    consumed = [span for span in receiver.spans if span.kind == "consumer"]
    runs = {span.attributes[semconv.MESSAGING_MESSAGE_ID]: span for span in consumed}
    for event in receiver.events:
        run = runs[tags(event)[semconv.TAG_TASK_ID]]
        assert trace_of(event) == (run.trace_id, run.span_id)
        assert run.attributes[semconv.SENTRY_EVENT_ID] == event.event_id
        assert CARD not in json.dumps(event.data)


def test_hook_that_ends_the_worker(live: LiveApp, receiver: Receiver, redis_broker: Broker) -> None:
    """I break ``on_failure`` on a pool where that ends the worker: nothing is lost on the way."""
    worker = live.worker(redis_broker, "-I", WAREHOUSE, pool="solo")
    producer = live.producer(redis_broker)
    task_id = producer.run(f"result = app.app.send_task('{WAREHOUSE}.broken_on_failure').id")
    assert worker.wait() != 0
    [run] = [span for span in receiver.spans if span.kind == "consumer"]
    assert (run.status, outcome(run)) == ("error", "failed")
    assert len(receiver.events) == 2  # the relay sends several at a time: they come in any order
    [event] = [one for one in receiver.events if semconv.TAG_TASK_ID in tags(one)]
    assert tags(event)[semconv.TAG_TASK_ID] == task_id
    assert trace_of(event) == (run.trace_id, run.span_id)
    [of_the_worker] = [one for one in receiver.events if one is not event]
    assert of_the_worker.data["logger"] == "celery.worker"
