"""Tasks, apps and workers of every kind: each has its spans and its one event."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from taskobs import semconv
from taskobs.testing.receiver import Receiver
from tests.live.audit import AuditedShop
from tests.live.celery_process import SHOP, Broker, LiveApp
from tests.live.process import LIMIT, wait_until
from tests.live.shop import QUICK, tags, trace_of

if TYPE_CHECKING:
    from collections.abc import Generator

    from tests.live import services

SPAN_KINDS = "tests.live.apps.kinds"
ALWAYS = {"OTEL_BSP_SCHEDULE_DELAY": "600000"}
"""No span leaves a process before that ends."""


def outcome_of(shop: AuditedShop, task_id: str) -> object:
    """Give how the one run of a task ended, and hold its spans and its event to each other."""
    publish, run = shop.spans(task_id, 2)
    assert (run.trace_id, run.parent_id) == (publish.trace_id, publish.span_id)
    assert publish.status == "unset"
    failed = run.status == "error"
    events = shop.events(task_id, int(failed))
    assert [trace_of(event) for event in events] == [(run.trace_id, run.span_id)] * failed
    assert [tags(event)[semconv.TAG_TASK] for event in events] == [run.name[4:]] * failed
    return run.attributes[semconv.CELERY_OUTCOME]


@pytest.fixture(scope="module")
def kinds(
    redis_server: services.Redis, tmp_path_factory: pytest.TempPathFactory
) -> Generator[AuditedShop]:
    """A worker that a script started with ``worker_main()``, and a producer."""
    url, folder = redis_server.url(), tmp_path_factory.mktemp("kinds")
    broker = Broker("redis", url, url)
    with Receiver() as receiver, LiveApp(folder, receiver.endpoint, receiver.dsn) as live:
        worker = live.worker(broker, script="tests.live.apps.script", env=QUICK)
        producer = live.producer(broker, app=SPAN_KINDS, env=QUICK)
        yield AuditedShop(live, broker, receiver, worker, producer)


@pytest.mark.parametrize(
    "call",
    ["loud.delay(%d)", "shared.delay(%d)", "bound.delay(%d)", "modelled.delay({'number': %d})"],
)
@pytest.mark.parametrize(("number", "ends"), [(3, "succeeded"), (0, "failed")])
def test_task(kinds: AuditedShop, call: str, number: int, ends: str) -> None:
    """I write a class of tasks, a shared, a bound, a typed task: spans and events as of any."""
    assert outcome_of(kinds, kinds.call(call % number)) == ends


def test_hooks_and_the_request_class_are_called(kinds: AuditedShop) -> None:
    """I override what a task and its request do, and it is done, once."""
    for number, end in ((3, "succeeded"), (0, "failed")):
        task_id = kinds.call(f"loud.delay({number})")
        assert outcome_of(kinds, task_id) == end
        kinds.worker.wait_log(f"request: {task_id} accepted")
        if end == "failed":  # the worker's main process hears of it after the run's span has left
            kinds.worker.wait_log(f"request: {task_id} failed")
        said = [
            line.split("task: ")[-1] for line in kinds.worker.log.splitlines() if task_id in line
        ]
        own = [line for line in said if line.startswith(task_id)]
        assert own == [f"{task_id} {what}" for what in ("starts", "called", end, "returned")]
        assert kinds.worker.log.count(f"request: {task_id} accepted") == 1
        assert kinds.worker.log.count(f"request: {task_id} failed") == int(end == "failed")


def test_another_app_of_the_same_process(kinds: AuditedShop) -> None:
    """I have two apps in one process, and both are seen."""
    worker = kinds.live.worker(kinds.broker, pool="solo", app=f"{SPAN_KINDS}:other", env=QUICK)
    for number, ends in ((3, "succeeded"), (0, "failed")):
        assert outcome_of(kinds, kinds.call(f"elsewhere.delay({number})")) == ends
    assert worker.stop() == 0


def test_nothing_else_came(kinds: AuditedShop) -> None:
    """I stop the worker, and all that it sent are the spans and events of the tests above."""
    kinds.audit()


@pytest.fixture(params=["prefork"])
def changing(
    request: pytest.FixtureRequest, live: LiveApp, receiver: Receiver, redis_broker: Broker
) -> AuditedShop:
    """A worker whose pool grows, shrinks and starts anew; nothing leaves its processes early."""
    env = {
        **ALWAYS,
        "AUTOSCALE_KEEPALIVE": "1",
        "APP_CONFIG": json.dumps({"worker_pool_restarts": True}),
    }
    worker = live.worker(redis_broker, "--autoscale=3,1", pool=request.param, env=env)
    return AuditedShop(live, redis_broker, receiver, worker, live.producer(redis_broker, env=QUICK))


def test_autoscale(changing: AuditedShop) -> None:
    """I let the pool grow and shrink: what its processes did is there when they are gone."""
    folder = changing.live.folder / "held"
    folder.mkdir()
    sent = changing.run(f"result = [app.hold.delay({str(folder)!r}).id for _ in range(3)]")
    together = wait_until(lambda: len(list(folder.iterdir())) == len(sent), timeout=LIMIT)
    assert together, changing.worker.tail()
    (folder / "go").touch()
    changing.worker.wait_log("Scaling down")
    failed = changing.call("fail.delay()")
    assert changing.producer.close() == 0
    assert changing.worker.stop() == 0
    assert [outcome_of(changing, task_id) for task_id in sent] == ["succeeded"] * 3
    runs = [span for span in changing.receiver.spans if span.name == f"run {SHOP}.hold"]
    assert len({run.attributes[semconv.PROCESS_PID] for run in runs}) == len(sent)
    assert outcome_of(changing, failed) == "failed"


@pytest.mark.row("stops", "pool restart")
@pytest.mark.parametrize("changing", ["prefork", "spawn"], indirect=True)
def test_pool_restart(changing: AuditedShop) -> None:
    """I restart the pool by remote control: what was done before and after is there."""
    before = [changing.call(call) for call in ("add.delay(1, 2)", "fail.delay()")]
    restart = "app.app.control.pool_restart(reply=True, timeout=90, limit=1)"
    assert "ok" in str(changing.run(f"result = {restart}"))
    after = [changing.call(call) for call in ("add.delay(1, 2)", "fail.delay()")]
    assert changing.producer.close() == 0
    assert changing.worker.stop() == 0
    ends = [outcome_of(changing, task_id) for task_id in (*before, *after)]
    assert ends == ["succeeded", "failed"] * 2
    runs = [span for span in changing.receiver.spans if span.name == f"run {SHOP}.add"]
    assert len({run.attributes[semconv.PROCESS_PID] for run in runs}) == 2
