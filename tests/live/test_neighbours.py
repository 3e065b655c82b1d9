"""What an app has beside taskobs: instrumentations of libraries, other exporters, other metrics."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import pytest

from taskobs import semconv

if TYPE_CHECKING:
    from taskobs.testing.receiver import Receiver
    from tests.live.celery_process import Broker, LiveApp

INSTRUMENTED = "tests.live.apps.instrumented"
REDIS = "opentelemetry.instrumentation.redis"
LOOK_UPS = f"""
names = ["looks_up", "looks_up_late"]
sent = [app.app.send_task(f"{INSTRUMENTED}.{{name}}", ("stock",)) for name in names]
sent += [app.calls_add.delay(1, 2), app.fail.delay(), app.retry_then_ok.delay(1)]
for one in sent: one.get(timeout=90, propagate=False)
"""


@pytest.mark.parametrize("pool", ["prefork", "threads", "gevent", "solo"])
def test_celerys_own_commands_make_no_traces(
    live: LiveApp, receiver: Receiver, redis_broker: Broker, pool: str
) -> None:
    """I instrument Redis, my broker: only what my tasks and their publishes do makes spans."""
    pytest.importorskip(REDIS)
    worker = live.worker(
        redis_broker, "-E", "--heartbeat-interval", "1", pool=pool, app=INSTRUMENTED, mingle=True
    )
    producer = live.producer(redis_broker)
    if pool != "solo":  # which is busy while it runs a task
        assert producer.run("result = app.app.control.ping(timeout=30, limit=1)")
    producer.run(LOOK_UPS)
    assert producer.close() == 0
    assert worker.stop() == 0
    ours = {span.span_id: span for span in receiver.spans if span.kind in {"producer", "consumer"}}
    commands = [span for span in receiver.spans if span.scope == REDIS]
    assert [span.name for span in commands if span.parent_id not in ours] == []
    gets = Counter(
        str(ours[span.parent_id].attributes[semconv.CELERY_TASK_NAME]).rpartition(".")[2]
        for span in commands
        if (span.name, ours[span.parent_id].kind) == ("GET", "consumer")
    )
    # Before it stores a result, Celery asks for the one that is there: once in each run.
    results = {"calls_add": 1, "add": 1, "fail": 1, "retry_then_ok": 2}
    assert gets == {**results, "looks_up": 2, "looks_up_late": 2}
    published = {span.parent_id for span in commands if ours[span.parent_id].kind == "producer"}
    assert len(published) == 2, "a task that a task calls, and a retry"
