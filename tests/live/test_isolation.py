"""The outcome table: a hundred runs at the same time in one process, and nothing gets mixed up."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, cast

import pytest

from taskobs import semconv
from taskobs.testing.receiver import Receiver
from tests.live.celery_process import Broker, LiveApp
from tests.live.process import LIMIT
from tests.live.shop import QUICK, Shop, tags, trace_of

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping

    from taskobs.testing.wire import ReceivedEvent, ReceivedSpan
    from tests.live import services

pytestmark = pytest.mark.row("concurrent", whole=True)
CROWD = "tests.live.apps.crowd"
SIZE = 100
NAMES = [f"member-{number:03}" for number in range(SIZE)]
LINE = re.compile(r"^IDS ([\w-]*) (\w*) (\w*) seen (.*)$", re.MULTILINE)
FORMAT = "IDS %(task_id)s %(trace_id)s %(span_id)s %(message)s"
CONFIG = {
    "worker_log_format": FORMAT,
    "worker_task_log_format": FORMAT,
    "worker_prefetch_multiplier": 2,
}
SPANS = 5 + 2
"""Those of each run that meets the others and of each that follows: the publish, the run, an inner
span, the publish and run of what it calls; a publish and a run."""


@pytest.fixture(scope="module", params=["redis-threads", "redis-gevent", "redis-eventlet"])
def crowd(
    request: pytest.FixtureRequest,
    redis_server: services.Redis,
    tmp_path_factory: pytest.TempPathFactory,
) -> Generator[Shop]:
    """A worker in which a hundred runs have met, have failed, and were followed by others."""
    pool, url = str(request.param).removeprefix("redis-"), redis_server.url()
    broker, folder = Broker("redis", url, url), tmp_path_factory.mktemp(request.param)
    env = {**QUICK, "CROWD": str(SIZE), "APP_CONFIG": json.dumps(CONFIG)}
    with Receiver() as receiver, LiveApp(folder, receiver.endpoint, receiver.dsn) as app:
        worker = app.worker(broker, pool=pool, concurrency=SIZE, app=CROWD, env=env)
        producer = app.producer(broker, app=CROWD, env=QUICK)
        shop = Shop(app, broker, receiver, worker, producer)
        shop.run(
            f"for name in {NAMES!r}: app.mingle.apply_async(task_id=name)\n"
            f"from celery.result import AsyncResult\n"
            f"for name in {NAMES!r}: AsyncResult(name, app=app.app).get("
            f"timeout={2 * LIMIT}, propagate=False)\n"
            f"later = [app.fail.delay(str(number)) for number in range({SIZE})]\n"
            "for sent in later: sent.get(timeout=90, propagate=False)\n",
            timeout=3 * LIMIT,
        )
        assert producer.close() == 0
        assert worker.stop() == 0
        yield shop


def named(shop: Shop, prefix: str) -> dict[str, ReceivedSpan]:
    """Give the spans whose names begin so, by the task that each is about."""
    found = [span for span in shop.receiver.spans if span.name.startswith(prefix)]
    by_task = {str(span.attributes.get(semconv.MESSAGING_MESSAGE_ID)): span for span in found}
    assert len(by_task) == len(found)
    return by_task


def runs(shop: Shop) -> dict[str, ReceivedSpan]:
    """Give the spans of the runs that met."""
    found = named(shop, f"run {CROWD}.mingle")
    assert sorted(found) == NAMES
    return found


def inner(shop: Shop) -> dict[str, ReceivedSpan]:
    """Give the spans that the runs opened themselves, by the run's id."""
    found = [span for span in shop.receiver.spans if span.name.startswith("inner ")]
    by_task = {span.name.removeprefix("inner "): span for span in found}
    assert len(found) == SIZE
    assert sorted(by_task) == NAMES
    return by_task


def crumbs(event: ReceivedEvent) -> list[Mapping[str, Any]]:
    told: Any = event.data.get("breadcrumbs")
    return cast("list[Mapping[str, Any]]", told["values"])


def events(shop: Shop, task: str) -> dict[str, ReceivedEvent]:
    """Give the events of a task, by the id of the run."""
    found = [event for event in shop.receiver.events if tags(event)[semconv.TAG_TASK] == task]
    by_task = {str(tags(event)[semconv.TAG_TASK_ID]): event for event in found}
    assert len(by_task) == len(found) == SIZE
    return by_task


def test_the_runs_were_there_at_the_same_time(crowd: Shop) -> None:
    """I run a hundred tasks in one process, all at once."""
    spans = runs(crowd).values()
    assert max(span.start_ns for span in spans) < min(span.end_ns for span in spans)
    assert {span.attributes[semconv.PROCESS_PID] for span in spans} == {crowd.worker.pid}


def test_each_run_is_a_child_of_its_own_publish(crowd: Shop) -> None:
    """I see each run in the trace of its own publish, and failed as it did."""
    publishes = named(crowd, f"publish {CROWD}.mingle")
    for name, run in runs(crowd).items():
        assert (run.trace_id, run.parent_id) == (publishes[name].trace_id, publishes[name].span_id)
        assert (run.status, run.message) == ("error", name)
        assert run.attributes[semconv.CELERY_OUTCOME] == "failed"
    assert len({run.trace_id for run in publishes.values()}) == SIZE


def test_what_a_run_opens_and_publishes_is_its_child(crowd: Shop) -> None:
    """I open a span in a task and publish from there: both are where I was."""
    called = named(crowd, f"publish {crowd.live.task('add')}")
    called_runs = named(crowd, f"run {crowd.live.task('add')}")
    own = inner(crowd)
    for name, run in runs(crowd).items():
        publish, child = called[f"called-by-{name}"], called_runs[f"called-by-{name}"]
        chain = [own[name], publish, child]
        assert [span.parent_id for span in chain] == [
            run.span_id,
            own[name].span_id,
            publish.span_id,
        ]
        assert {span.trace_id for span in chain} == {run.trace_id}
        assert publish.attributes[semconv.CELERY_PARENT_ID] == name


def test_each_event_tells_of_its_own_run(crowd: Shop) -> None:
    """I find in each event the tags and breadcrumbs of the run that failed, and nobody else's."""
    own = runs(crowd)
    for name, event in events(crowd, f"{CROWD}.mingle").items():
        assert trace_of(event) == (own[name].trace_id, own[name].span_id)
        assert tags(event)["crowd"] == name
        left = [crumb["message"] for crumb in crumbs(event) if crumb["category"] == "crowd"]
        assert left == [f"seen {name}", f"seen {name}", name] * 3
        told = json.dumps(event.data)
        assert set(re.findall(r"\bmember-\d+", told)) == {name}


def test_a_later_run_inherits_nothing(crowd: Shop) -> None:
    """I set tags in one task, and they are gone in the next one of that thread."""
    for event in events(crowd, crowd.live.task("fail")).values():
        assert "crowd" not in tags(event)
        assert "member-" not in json.dumps(event.data)


def test_each_log_line_has_the_ids_of_its_run(crowd: Shop) -> None:
    """I read in each line of the log, the app's and the task's logger's, whose it is."""
    lines = LINE.findall(crowd.worker.log)
    own, within = runs(crowd), inner(crowd)
    for name in NAMES:
        ids = [tuple(found) for *found, named in lines if named == name]
        run = (name, own[name].trace_id, own[name].span_id)
        span = (name, own[name].trace_id, within[name].span_id)
        assert ids == [run, run, span, span, span, span]


def test_nothing_was_lost(crowd: Shop) -> None:
    """I count the spans and events of a hundred runs, and of the hundred after them."""
    assert len(crowd.receiver.spans) == SPANS * SIZE
    assert len(crowd.receiver.events) == 2 * SIZE
