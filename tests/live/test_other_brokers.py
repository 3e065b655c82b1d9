"""Brokers and result backends beside Redis and RabbitMQ: one trace a task, errors tagged."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

from taskobs import semconv
from tests.live import services
from tests.live.celery_process import ROOT, SHOP, Broker
from tests.live.conftest import skip_if_missing
from tests.live.process import LIMIT, Program, wait_until
from tests.live.services import HOST
from tests.live.shop import QUICK, tags
from tests.live.test_web import ids, one_trace_each, publishes

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path

    from taskobs.testing.receiver import Receiver
    from tests.live.celery_process import LiveApp, Producer


@pytest.fixture(scope="module")
def sentinel(tmp_path_factory: pytest.TempPathFactory) -> Generator[services.Sentinel]:
    """A Redis master, its replica and a sentinel."""
    with skip_if_missing(), services.sentinel(tmp_path_factory.mktemp("sentinel")) as found:
        yield found


@pytest.fixture(scope="module")
def memcached() -> Generator[int]:
    """The port of a memcached."""
    with skip_if_missing(), services.memcached() as port:
        yield port


@pytest.fixture(scope="module")
def sqs(tmp_path_factory: pytest.TempPathFactory) -> Generator[int]:
    """The port of a server that speaks the protocol of Amazon SQS."""
    with services.sqs(tmp_path_factory.mktemp("sqs")) as port:
        yield port


def publish(producer: Producer, number: int) -> list[str]:
    """Publish tasks, and give their ids."""
    found = producer.run(f"result = [app.add.delay(1, 2).id for _ in range({number})]")
    return [str(task_id) for task_id in found]


def test_a_failover_loses_no_span(
    live: LiveApp, receiver: Receiver, redis_broker: Broker, sentinel: services.Sentinel
) -> None:
    """My Redis fails over to its replica: what I publish is a trace each, and names its server."""
    broker = Broker(
        "sentinel",
        f"sentinel://{HOST}:{sentinel.port}/0",
        redis_broker.backend,
        {"master_name": "shop"},
    )
    worker, producer = live.worker(broker), live.producer(broker)
    published, masters = publish(producer, 10), [sentinel.master_port()]
    for task_id in published:
        worker.wait_log(f"[{task_id}] succeeded")
    sentinel.fail_over()
    masters.append(sentinel.master_port())
    # Connections to the old master break: Celery retries a publish by itself.
    published += publish(producer, 10)
    for task_id in published:
        worker.wait_log(f"[{task_id}] succeeded")
    assert producer.close() == 0
    worker.stop()
    one_trace_each(receiver, published)
    assert {span.attributes[semconv.MESSAGING_SYSTEM] for span in publishes(receiver)} == {"redis"}
    assert receiver.wait_for(lambda r: len(r.spans) == 40, LIMIT)
    # Publishes and runs name the server that was the master at the time, not the Sentinel.
    before, after = set(published[:10]), set(published[10:])
    for ids_of_tasks, port in zip((before, after), masters, strict=True):
        servers = {
            (span.attributes[semconv.SERVER_ADDRESS], span.attributes[semconv.SERVER_PORT])
            for span in receiver.spans
            if span.attributes[semconv.MESSAGING_MESSAGE_ID] in ids_of_tasks
        }
        assert servers == {(HOST, port)}


def test_chords_are_linked_on_memcached(
    live: LiveApp, receiver: Receiver, redis_broker: Broker, memcached: int
) -> None:
    """My results are in memcached: a chord's callback is linked to each run of its header."""
    broker = Broker("redis", redis_broker.url, f"cache+memcached://{HOST}:{memcached}/")
    worker, producer = live.worker(broker, env=QUICK), live.producer(broker, env=QUICK)
    header = "[app.add.s(1, n) for n in range(3)]"
    producer.run(f"app.chord({header}, app.total.s()).delay().get(timeout=90)")
    assert producer.close() == 0
    worker.stop()
    runs = [span for span in receiver.spans if span.name.startswith(semconv.RUN_SPAN)]
    of_header = {(run.trace_id, run.span_id) for run in runs if run.name.endswith(".add")}
    [callback] = [run for run in runs if run.name.endswith(".total")]
    linked = {
        (link.trace_id, link.span_id)
        for link in callback.links
        if link.attributes[semconv.LINK_KIND] == semconv.LINK_CHORD_HEADER
    }
    assert linked == of_header
    assert len(of_header) == 3


def test_sqs_carries_traces_and_errors(
    live: LiveApp, receiver: Receiver, redis_broker: Broker, sqs: int
) -> None:
    """My broker is SQS: a task that fails is one trace, with one event that has its tags."""
    broker = Broker(
        "sqs",
        f"sqs://key:secret@{HOST}:{sqs}//",
        redis_broker.backend,
        {
            "region": "us-east-1",
            "is_secure": False,
            "polling_interval": 0.1,
            "wait_time_seconds": 1,
        },
    )
    worker, producer = live.worker(broker, env=QUICK), live.producer(broker, env=QUICK)
    task_id = str(producer.run("result = app.fail.delay().id"))
    assert receiver.wait_for(lambda r: len(r.spans) >= 2 and len(r.events) >= 1, LIMIT), (
        worker.tail()
    )
    assert producer.close() == 0
    worker.stop()
    one_trace_each(receiver, [task_id])
    [event] = receiver.events
    assert tags(event)[semconv.TAG_TASK_ID] == task_id
    assert tags(event)[semconv.TAG_QUEUE] == "celery"
    for span in receiver.spans:
        assert span.attributes[semconv.MESSAGING_SYSTEM] == "aws_sqs"
        assert span.attributes[semconv.MESSAGING_DESTINATION_NAME] == "celery"
        assert "secret" not in str(span.attributes)


PRODUCER = f"""
import time
from {SHOP} import add
for _ in range(100):
    add.delay(1, 2)
print("published", flush=True)
time.sleep(600)
"""
SUPERVISED = """
[supervisord]
nodaemon = true
logfile = {folder}/supervisord.log
pidfile = {folder}/supervisord.pid

[program:producer]
command = {python} {folder}/producer.py
directory = {root}
autorestart = false
stdout_logfile = {folder}/producer.log
redirect_stderr = true
"""


def test_a_producer_that_supervisord_stops(
    live: LiveApp, receiver: Receiver, redis_broker: Broker, tmp_path: Path
) -> None:
    """My producer runs under supervisord, which stops it after a hundred publishes: all arrive."""
    config, log = tmp_path / "supervisord.conf", tmp_path / "producer.log"
    (tmp_path / "producer.py").write_text(PRODUCER)
    config.write_text(SUPERVISED.format(folder=tmp_path, python=sys.executable, root=ROOT))
    command = [sys.executable, "-m", "supervisor.supervisord", "-n", "-c", str(config)]
    env = live.environment(redis_broker)
    with Program(command, log=tmp_path / "out.log", env=env, cwd=ROOT) as supervisord:
        supervisord.wait_ready(lambda: log.exists() and "published" in log.read_text())
        assert supervisord.stop("TERM") == 0
    assert wait_until(lambda: len(publishes(receiver)) == 100, timeout=LIMIT)
    assert set(ids(publishes(receiver)).values()) == {1}
