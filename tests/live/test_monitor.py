"""``taskobs monitor`` against what was put into the queues of real brokers."""

from __future__ import annotations

import json
import subprocess
import time
from contextlib import ExitStack, closing
from typing import TYPE_CHECKING, Any, cast

import pytest
from celery import Celery
from kombu import Exchange, Queue
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

pytest.importorskip("prometheus_client")  # the extra `prometheus`
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)

from taskobs.celery.queues.reader import BrokerError, QueueReader
from taskobs.celery.queues.readings import UNACKED
from tests.live import services
from tests.live.celery_process import Broker, LiveApp
from tests.live.conftest import skip_if_missing
from tests.live.monitor import Monitors
from tests.live.process import LIMIT, wait_until
from tests.support.gate import gate

if TYPE_CHECKING:
    from pathlib import Path

    from taskobs.testing.receiver import Receiver
    from tests.live.celery_process import Producer

ROUTED = "tests.live.apps.routed"
SLOW = '{"worker_prefetch_multiplier": 1, "task_acks_late": true}'
"""A worker takes as many messages as it runs."""
STATES = ("ready", "unacked")
UNKNOWN = {"ready": None, "unacked": None, "oldest_age": None, "consumers": None}


def publish(producer: Producer, queue: str, *options: str) -> tuple[float, float]:
    """Publish a task for each of the options; gives the times before and after."""
    sends = "\n".join(f"app.add.apply_async((1, 2), queue={queue!r}, {each})" for each in options)
    given = producer.run(f"import time\nb = time.time()\n{sends}\nresult = b, time.time()")
    return given[0], given[1]


def poll(monitors: Monitors) -> tuple[dict[str, dict[str, Any]], float, float]:
    """Poll once; gives the queues, and the times before and after."""
    before = time.time()
    return monitors.queues(), before, time.time()


def unknown(queues: dict[str, dict[str, Any]]) -> list[str]:
    """Name the queues of which something is not known."""
    return [name for name, queue in queues.items() if None in queue.values()]


def counts(queues: dict[str, dict[str, Any]], name: str) -> tuple[object, object, object]:
    """Give what is counted of a queue."""
    queue = queues[name]
    return queue["ready"], queue["unacked"], queue["consumers"]


def in_series(series: dict[tuple[str, ...], float], name: str) -> tuple[float | None, ...]:
    """Give what is counted of a queue in a scrape."""
    of_states = [series.get(("celery_queue_messages", name, state)) for state in STATES]
    return *of_states, series.get(("celery_queue_consumers", name))


@pytest.fixture
def monitors(request: pytest.FixtureRequest, live: LiveApp, broker: Broker) -> Monitors:
    """Starts monitors over each broker; RabbitMQ's management API has a port of its own."""
    env = {"OTEL_METRIC_EXPORT_INTERVAL": "100"}
    if broker.kind == "rabbitmq":
        server: services.RabbitMQ = request.getfixturevalue("rabbitmq_server")
        env["TASKOBS_BROKER_API"] = server.management
    return Monitors(live, broker, env, ROUTED)


def test_what_waits_is_what_was_published(
    live: LiveApp, broker: Broker, receiver: Receiver, monitors: Monitors, tmp_path: Path
) -> None:
    """I publish with several priorities and take some: each number is what I have put there."""
    producer = live.producer(broker, app=ROUTED)
    first = publish(producer, "celery", "priority=9")
    publish(producer, "celery", *("priority=0, countdown=300",) * 3, "priority=6", "priority=6")
    feed = publish(producer, "feed", "priority=3", "priority=0")
    # RabbitMQ's statistics are some seconds old.
    found, before, after = poll(monitors)
    end = time.monotonic() + LIMIT
    while unknown(found) and time.monotonic() < end:
        found, before, after = poll(monitors)
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
    live.worker(broker, "-Q", "videos,extra", app=ROUTED, concurrency=3, env={"APP_CONFIG": SLOW})
    with monitors.start("--port", "0", "--interval", "0.2") as monitor:
        # The app's configuration doesn't name the last: the worker does.
        wanted = {"celery": (6, 0, 0), "feed": (2, 0, 0), "videos": (1, 3, 1), "extra": (0, 0, 1)}

        def served() -> bool:
            # Both at a time: a poll that a busy worker does not answer in time has no consumers.
            queues, series = monitor.queues(), monitor.series()
            return all(
                name in queues and counts(queues, name) == numbers == in_series(series, name)
                for name, numbers in wanted.items()
            )

        assert wait_until(served, timeout=LIMIT), (monitor.queues(), monitor.tail())
        series = monitor.series()
        for name in wanted:
            assert series["celery_queue_oldest_age_seconds", name] >= 0
        assert series["taskobs_monitor_connected",] == 1
        assert receiver.wait_for(lambda r: sent(r).items() >= flat(wanted).items(), LIMIT), sent(
            receiver
        )
        table = monitors.once().stdout.splitlines()
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
        monitors = Monitors(live, broker, {"OTEL_METRIC_EXPORT_INTERVAL": "100"})
        publish(producer, "celery", "priority=0", "priority=9")
        monitor = stack.enter_context(monitors.start("--port", "0", "--interval", "0.2"))
        watch = stack.enter_context(monitors.start("--watch", "--interval", "0.2", name="watch"))
        assert wait_until(lambda: monitor.queues()["celery"]["ready"] == 2, timeout=LIMIT)
        watch.wait_log("celery      2")
        server.close()
        assert wait_until(lambda: monitor.queues() == {"celery": UNKNOWN}, timeout=LIMIT)
        assert monitor.series() == {("taskobs_monitor_connected",): 0}
        monitor.wait_log(f"redis at {services.HOST}:{port} can't be asked, trying again: ")
        watch.wait_log("can't be asked, trying again: ")
        once = monitors.once()
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


def test_unacked_messages_are_told_apart_by_their_queues(redis_server: services.Redis) -> None:
    """Thousands are unacked on Redis, of several queues, with options of mine: all are counted."""
    media = Exchange("media", type="topic")
    with Celery("shop", broker=redis_server.url(), set_as_current=False) as app:
        options = {"global_keyprefix": "mine:", "priority_steps": [0, 5], "sep": ":"}
        app.conf.broker_transport_options = options
        app.conf.task_queues = (
            Queue("celery", Exchange("celery"), routing_key="celery"),
            Queue("feed", media, routing_key="feed.#"),
            Queue("imports", media, routing_key="#.import"),
        )
        app.conf.worker_enable_remote_control = False
        for priority in (0, 4, 5, 9):
            app.send_task("add", queue="celery", priority=priority)
        with closing(QueueReader(app)) as reader, app.connection_for_write() as connection:
            redis: Any = cast("Any", connection.default_channel).client
            taken: dict[str, Any] = {
                f"c{number}": ["{}", "celery", "celery"] for number in range(1500)
            }
            taken |= {f"f{number}": [{"body": "x"}, "media", "feed.cats"] for number in range(30)}
            taken |= {"other": ["{}", "", "of-another-app"], "odd": 5}
            redis.hset("unacked", mapping={tag: json.dumps(one) for tag, one in taken.items()})
            first = reader.read()
            assert [queue.unacked for queue in first.queues] == [None, None, None]
            assert first.unknown[UNACKED] == "532 unacked messages are not read yet"
            assert read(reader) == {"celery": (4, 1500), "feed": (0, 30), "imports": (0, 0)}
            redis.hdel("unacked", *[f"c{number}" for number in range(1000)])
            assert read(reader) == {"celery": (4, 500), "feed": (0, 30), "imports": (0, 0)}
            # A copy for each of two queues: it says of neither that it is its.
            redis.hset("unacked", "new", json.dumps(["{}", "media", "feed.import"]))
            assert read(reader) == {"celery": (4, 500), "feed": (0, None), "imports": (0, None)}


def read(reader: QueueReader) -> dict[str, tuple[int | None, int | None]]:
    """Poll once; gives what is ready and unacked of each queue."""
    return {queue.name: (queue.ready, queue.unacked) for queue in reader.read().queues}


@pytest.mark.parametrize("accept", ["", "application/openmetrics-text; version=1.0.0"])
def test_promtool_finds_nothing_wrong(live: LiveApp, redis_broker: Broker, accept: str) -> None:
    """Prometheus' own checker reads what is served, and has nothing to say."""
    with skip_if_missing():
        promtool = services.find_program(
            "promtool", variable="TASKOBS_PROMTOOL", install="apt-get install prometheus"
        )
    monitors = Monitors(live, redis_broker, {})
    with monitors.start("--port", "0", "--interval", "0.2") as monitor:
        assert wait_until(lambda: monitor.queues()["celery"]["ready"] == 0, timeout=LIMIT)
        text = monitor.scrape(accept)
    done = subprocess.run(
        [promtool, "check", "metrics"], input=text, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_polls_make_no_spans(redis_server: services.Redis) -> None:
    """My app has Redis' library instrumented: no trace is made of each poll."""
    redis = pytest.importorskip("opentelemetry.instrumentation.redis")
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    instrumentor = redis.RedisInstrumentor()
    instrumentor.instrument(tracer_provider=provider)
    try:
        with Celery("shop", broker=redis_server.url(), set_as_current=False) as app:
            app.send_task("add", queue="celery")
            assert exporter.get_finished_spans()
            exporter.clear()
            with closing(QueueReader(app)) as reader:
                assert read(reader) == {"celery": (1, 0)}
    finally:
        instrumentor.uninstrument()
    assert exporter.get_finished_spans() == ()


@pytest.mark.parametrize("kind", ["redis", "rabbitmq"])
def test_a_broker_that_hangs_or_hangs_up_is_an_outage(
    kind: str, request: pytest.FixtureRequest
) -> None:
    """My broker hangs, or its connections are cut: a poll fails, and a later one works."""
    server: Any = request.getfixturevalue(f"{kind}_server")
    url = str(server.url())
    with (
        gate(server.port) as opened,
        Celery(
            "shop", broker=url.replace(str(server.port), str(opened.port)), set_as_current=False
        ) as app,
    ):
        app.send_task("add", queue="celery")
        with closing(QueueReader(app, broker_api=getattr(server, "management", None))) as reader:
            assert reader.read().queues[0].ready == 1
            opened.cut()  # what was cut while idle is no outage
            assert reader.read().queues[0].ready == 1
            for fault in (opened.refuse, opened.hang):
                fault()
                with pytest.raises(BrokerError) as caught:
                    reader.read()
                assert "guest" not in str(caught.value)
                opened.heal()
                assert reader.read().queues[0].ready == 1
