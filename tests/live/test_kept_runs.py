"""With ``keep``, the runs that matter are recorded, whole, though their traces are not sampled."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from typing import TYPE_CHECKING

import pytest

from taskobs import semconv
from tests.live.process import LIMIT
from tests.live.shop import tags, trace_of

if TYPE_CHECKING:
    from taskobs.testing.receiver import Receiver
    from taskobs.testing.wire import ReceivedSpan
    from tests.live.celery_process import Broker, LiveApp

KEPT = "tests.live.apps.kept"
RUNS, FAILING, DYING = 2_000, 40, 10
PUBLISH = f"""
from celery.result import ResultSet
ways = ["die" if n % {RUNS // DYING} == 7 else "fail" if n % {RUNS // FAILING} == 3 else "succeed"
        for n in range({RUNS})]
sent = [app.work.delay(way) for way in ways]
ResultSet(sent).join(timeout={2 * LIMIT}, propagate=False)
result = [[one.id, way] for one, way in zip(sent, ways)]
"""
OUTCOMES = {"fail": "failed", "die": "lost", "succeed": "succeeded"}


def by_parent(receiver: Receiver) -> dict[str, list[ReceivedSpan]]:
    found: dict[str, list[ReceivedSpan]] = defaultdict(list)
    for span in receiver.spans:
        found[span.parent_id or ""].append(span)
    return found


def test_failed_and_lost_runs_are_there_whole(
    live: LiveApp, receiver: Receiver, redis_broker: Broker
) -> None:
    """I sample one trace in a hundred: each run that failed or died is there, with its event."""
    rate = {"sample_rate": 0.01}
    keeping = json.dumps({**rate, "keep": ["failed", "lost"]})
    env = {"APP_INIT": keeping, "TASKOBS_TRACE_URL": "https://jaeger.example/trace/{trace_id}"}
    worker = live.worker(redis_broker, app=KEPT, env=env)
    producer = live.producer(redis_broker, app=KEPT, env={"APP_INIT": json.dumps(rate)})
    ways: dict[str, str] = dict(producer.run(PUBLISH, timeout=2 * LIMIT))
    assert Counter(ways.values()) == {"fail": FAILING, "die": DYING, "succeed": RUNS - 50}
    assert producer.close() == 0
    assert worker.stop() == 0

    inside, publishes = by_parent(receiver), Counter[str]()
    runs = {
        str(span.attributes[semconv.CELERY_TASK_ID]): span
        for span in receiver.spans
        if span.name.startswith(semconv.RUN_SPAN)
    }
    for task_id, run in runs.items():
        names = sorted(span.name for span in inside[run.span_id])
        # Its spans tell a task that was executed twice from spans that were exported twice.
        assert names == ["query", "step"], (ways[task_id], task_id, inside[run.span_id])
        assert {span.trace_id for span in inside[run.span_id]} == {run.trace_id}
        assert run.attributes[semconv.CELERY_OUTCOME] == OUTCOMES[ways[task_id]]
    events = {str(tags(one)[semconv.TAG_TASK_ID]): one for one in receiver.events}
    bad = {task_id for task_id, way in ways.items() if way != "succeed"}
    assert bad - runs.keys() == set()
    assert events.keys() == bad
    for task_id in bad:
        assert trace_of(events[task_id]) == (runs[task_id].trace_id, runs[task_id].span_id)
        link = f"https://jaeger.example/trace/{runs[task_id].trace_id}"
        assert tags(events[task_id])[semconv.TAG_TRACE_URL] == link
    # Of the others, about one in a hundred: those whose publish was sampled, too.
    publishes.update(span.span_id for span in receiver.spans if span.kind == "producer")
    others = runs.keys() - bad
    assert 1 <= len(others) <= 60
    assert {runs[one].parent_id for one in others} <= publishes.keys()
    assert len(receiver.spans) == 3 * len(runs) + len(publishes)
    assert "are dropped" not in worker.log


SIDE_BY_SIDE = """
from celery import group
ways = ["fail" if n % 10 == 3 else "succeed" for n in range(60)]
sent = group(app.work.s(way) for way in ways).apply_async()
sent.join(timeout=120, propagate=False)
result = [[one.id, way] for one, way in zip(sent.results, ways)]
"""


@pytest.mark.parametrize(("pool", "relay"), [("gevent", True), ("prefork", False)])
def test_runs_of_one_trace_are_kept_by_themselves(
    live: LiveApp, receiver: Receiver, redis_broker: Broker, pool: str, *, relay: bool
) -> None:
    """A group runs side by side, in one trace: those that fail are there whole, and no other."""
    given = {"sample_rate": 0.0, "keep": ["failed"], "relay": relay}
    env = {"APP_INIT": json.dumps(given)}
    worker = live.worker(redis_broker, app=KEPT, pool=pool, concurrency=4, env=env)
    producer = live.producer(redis_broker, app=KEPT, env=env)
    ways: dict[str, str] = dict(producer.run(SIDE_BY_SIDE))
    assert producer.close() == 0
    assert worker.stop() == 0
    inside = by_parent(receiver)
    runs = [span for span in receiver.spans if span.name.startswith(semconv.RUN_SPAN)]
    found = {str(run.attributes[semconv.CELERY_TASK_ID]) for run in runs}
    assert found == {task_id for task_id, way in ways.items() if way == "fail"}
    assert len({run.trace_id for run in runs}) == 1
    for run in runs:
        assert sorted(span.name for span in inside[run.span_id]) == ["query", "step"]
    assert len(receiver.spans) == 3 * len(runs)
