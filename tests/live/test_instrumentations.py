"""``init(instrument=True)`` in a real worker: what tasks do makes spans, Celery's traffic none."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import pytest

from taskobs import semconv
from tests.live.shop import QUICK

if TYPE_CHECKING:
    from taskobs.testing.receiver import Receiver
    from tests.live.celery_process import Broker, LiveApp

SCOPE = "opentelemetry.instrumentation."
APP = "tests.live.apps.others"


@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_the_brokers_library_is_instrumented(
    live: LiveApp, receiver: Receiver, redis_broker: Broker, pool: str
) -> None:
    """My broker is Redis: commands of my tasks are spans, and polls of the worker are none."""
    pytest.importorskip("opentelemetry.instrumentation.redis")
    env = {**QUICK, "TASKOBS_INSTRUMENT": "true"}
    worker = live.worker(redis_broker, pool=pool, app=APP, env=env)
    producer = live.producer(redis_broker, app=APP, env=env)
    ids = [producer.run(f"result = app.{task}.delay().id") for task in ("ask_redis", "ask_driver")]
    for task_id in ids:
        worker.wait_log(f"[{task_id}] succeeded")
    producer.close()
    worker.stop()
    by_id = {(span.trace_id, span.span_id): span for span in receiver.spans}
    commands = [span for span in receiver.spans if span.scope == f"{SCOPE}redis"]
    parents = {by_id[span.trace_id, span.parent_id].name.split()[0] for span in commands}
    assert parents <= {semconv.PUBLISH_SPAN.strip(), semconv.RUN_SPAN.strip()}
    runs = [span for span in receiver.spans if span.name.startswith(semconv.RUN_SPAN)]
    assert Counter(run.attributes[semconv.MESSAGING_MESSAGE_ID] for run in runs) == Counter(ids)
    inside = {(run.trace_id, run.span_id): run.name.rpartition(".")[2] for run in runs}
    seen = Counter(
        (inside[span.trace_id, span.parent_id], span.name)
        for span in receiver.spans
        if (span.trace_id, span.parent_id) in inside
    )
    assert seen["ask_redis", "SET"] == 1
    assert seen["ask_driver", "SELECT"] == 1
    assert "is not instrumented" not in worker.log
    assert "taskobs: instrumented: " in worker.log
