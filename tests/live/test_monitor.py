"""``taskobs monitor`` against what was put into the queues of real brokers."""

from __future__ import annotations

import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("prometheus_client")  # the extra `prometheus`
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)

from tests.live import services
from tests.live.celery_process import Broker, LiveApp
from tests.live.monitor import Looks
from tests.live.process import LIMIT, wait_until

if TYPE_CHECKING:
    from pathlib import Path

    from taskobs.testing.receiver import Receiver
    from tests.live.celery_process import Producer

ROUTED = "tests.live.apps.routed"
SLOW = '{"worker_prefetch_multiplier": 1, "task_acks_late": true}'
"""A worker takes as many messages as it runs."""
UNKNOWN = {"ready": None, "unacked": None, "oldest_age": None, "consumers": None}


def publish(producer: Producer, queue: str, *options: str) -> tuple[float, float]:
    """Publish a task for each of the options; gives the times before and after."""
    sends = "\n".join(f"app.add.apply_async((1, 2), queue={queue!r}, {each})" for each in options)
    given = producer.run(f"import time\nb = time.time()\n{sends}\nresult = b, time.time()")
    return given[0], given[1]


def look(looks: Looks) -> tuple[dict[str, dict[str, Any]], float, float]:
    """Look once; gives the queues, and the times before and after."""
    before = time.time()
    return looks.queues(), before, time.time()


def unknown(queues: dict[str, dict[str, Any]]) -> list[str]:
    """Name the queues of which something is not known."""
    return [name for name, queue in queues.items() if None in queue.values()]


def counts(queues: dict[str, dict[str, Any]], name: str) -> tuple[object, object, object]:
    """Give what is counted of a queue."""
    queue = queues[name]
    return queue["ready"], queue["unacked"], queue["consumers"]


@pytest.fixture
def looks(request: pytest.FixtureRequest, live: LiveApp, broker: Broker) -> Looks:
    """Starts monitors over each broker; RabbitMQ's management API has a port of its own."""
    env = {"OTEL_METRIC_EXPORT_INTERVAL": "100"}
    if broker.kind == "rabbitmq":
        server: services.RabbitMQ = request.getfixturevalue("rabbitmq_server")
        env["TASKOBS_BROKER_API"] = server.management
    return Looks(live, broker, env, ROUTED)


def test_what_waits_is_what_was_published(
    live: LiveApp, broker: Broker, receiver: Receiver, looks: Looks, tmp_path: Path
) -> None:
    """I publish with several priorities and take some: each number is what I have put there."""
    producer = live.producer(broker, app=ROUTED)
    first = publish(producer, "celery", "priority=9")
    publish(producer, "celery", *("priority=0, countdown=300",) * 3, "priority=6", "priority=6")
    feed = publish(producer, "feed", "priority=3", "priority=0")
    # RabbitMQ's statistics are some seconds old.
    found, before, after = look(looks)
    end = time.monotonic() + LIMIT
    while unknown(found) and time.monotonic() < end:
        found, before, after = look(looks)
    assert set(found) == {"celery", "feed", "videos"}
    assert counts(found, "celery") == (6, 0, 0)
    assert counts(found, "feed") == (2, 0, 0)
    assert found["videos"] == {"ready": 0, "unacked": 0, "oldest_age": 0, "consumers": 0}
    whole = 1.0 if broker.kind == "rabbitmq" else 0.0  # its timestamps are whole seconds
    for queue, published in (("celery", first), ("feed", feed)):
        age = found[queue]["oldest_age"]
        assert before - published[1] - whole <= age <= after - published[0] + whole
    # Three are taken: the worker runs two, and a third waits in it for its ETA, or for a slot.
    (tmp_path / "held").mkdir()
    hold = "'tests.live.apps.shop.hold', priority=0, args=[{!r}]".format(str(tmp_path / "held"))
    producer.run(f"for _ in range(4): app.app.send_task({hold}, queue='videos')")
    live.worker(broker, "-Q", "videos", app=ROUTED, concurrency=3, env={"APP_CONFIG": SLOW})
    with looks.start("--port", "0", "--interval", "0.2") as monitor:
        wanted = {"celery": (6, 0, 0), "feed": (2, 0, 0), "videos": (1, 3, 1)}
        arrived = wait_until(
            lambda: {name: counts(monitor.queues(), name) for name in wanted} == wanted,
            timeout=LIMIT,
        )
        assert arrived, (monitor.queues(), monitor.tail())
        series = monitor.series()
        for name, numbers in wanted.items():
            assert series["celery_queue_messages", name, "ready"] == numbers[0]
            assert series["celery_queue_messages", name, "unacked"] == numbers[1]
            assert series["celery_queue_consumers", name] == numbers[2]
            assert series["celery_queue_oldest_age_seconds", name] >= 0
        assert series["taskobs_monitor_connected",] == 1
        assert receiver.wait_for(lambda r: sent(r).items() >= flat(wanted).items(), LIMIT), sent(
            receiver
        )
        table = looks.once().stdout.splitlines()
        assert table[0].split() == ["queue", "ready", "unacked", "oldest", "consumers"]
        assert [(row.split()[0], row.split()[1]) for row in table[1:4]] == [
            *(("celery", "6"), ("feed", "2"), ("videos", "1")),
        ]
        (tmp_path / "held" / "go").touch()
        done = {"celery": (6, 0, 0), "videos": (0, 0, 1)}
        assert wait_until(
            lambda: {name: counts(monitor.queues(), name) for name in done} == done, timeout=LIMIT
        ), (monitor.queues(), monitor.tail())
        assert monitor.stop() == 0


def flat(wanted: dict[str, tuple[int, int, int]]) -> dict[tuple[str, ...], float]:
    """Give the numbers by metric, queue and state."""
    found: dict[tuple[str, ...], float] = {}
    for name, (ready, unacked, consumers) in wanted.items():
        found["celery.queue.messages", name, "ready"] = ready
        found["celery.queue.messages", name, "unacked"] = unacked
        found["celery.queue.consumers", name] = consumers
    return found


def sent(receiver: Receiver) -> dict[tuple[str, ...], float]:
    """Give the last values over OTLP from the monitor, by metric, queue and state."""
    found: dict[tuple[str, ...], float] = {}
    for request in receiver.requests:
        if request.path != "/v1/metrics" or b"celery.queue.messages" not in request.body:
            continue
        [resource] = ExportMetricsServiceRequest.FromString(request.body).resource_metrics
        attributes = {each.key: each.value.string_value for each in resource.resource.attributes}
        assert attributes["service.name"] == "shop"
        assert attributes["service.instance.id"]
        for metric in resource.scope_metrics[0].metrics:
            for point in metric.gauge.data_points:
                labels = {each.key: each.value.string_value for each in point.attributes}
                series = metric.name, *(labels[key] for key in sorted(labels))
                found[series] = point.as_double
    return found


def test_an_outage_of_the_broker_and_its_return(
    live: LiveApp, receiver: Receiver, tmp_path: Path
) -> None:
    """Redis goes and comes back: I read null in between, never an old number, and a clear log."""
    (tmp_path / "redis").mkdir()
    with ExitStack() as stack:
        server = ExitStack()
        stack.callback(server.close)
        port = server.enter_context(services.redis(tmp_path / "redis")).port
        url = f"redis://:of-mine@{services.HOST}:{port}/0"
        broker = Broker("redis", url.replace(":of-mine@", ""), "cache+memory://")
        producer = live.producer(broker)
        looks = Looks(live, broker, {"OTEL_METRIC_EXPORT_INTERVAL": "100"})
        publish(producer, "celery", "priority=0", "priority=9")
        monitor = stack.enter_context(looks.start("--port", "0", "--interval", "0.2"))
        watch = stack.enter_context(looks.start("--watch", "--interval", "0.2", name="watch"))
        assert wait_until(lambda: monitor.queues()["celery"]["ready"] == 2, timeout=LIMIT)
        watch.wait_log("celery      2")
        server.close()
        assert wait_until(lambda: monitor.queues() == {"celery": UNKNOWN}, timeout=LIMIT)
        assert monitor.series() == {("taskobs_monitor_connected",): 0}
        monitor.wait_log(f"redis at {services.HOST}:{port} can't be asked, trying again: ")
        watch.wait_log("can't be asked, trying again: ")
        once = looks.once()
        assert once.returncode == 1
        assert once.stderr.startswith(f"Error: redis at {services.HOST}:{port} can't be asked: ")
        assert once.stderr.count("\n") == 1
        server.enter_context(services.redis(tmp_path / "redis", port))
        publish(producer, "celery", "priority=3")
        assert wait_until(lambda: monitor.queues()["celery"]["ready"] == 1, timeout=LIMIT)
        monitor.wait_log("can be asked again, after ")
        watch.wait_log("celery      1")
        assert monitor.log.count("can't be asked") == 1
        assert receiver.wait_for(
            lambda r: sent(r).get(("celery.queue.messages", "celery", "ready")) == 1, LIMIT
        )
        assert "Traceback" not in monitor.log + watch.log
        assert (monitor.stop(), watch.stop("INT")) == (0, 0)
