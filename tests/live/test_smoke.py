"""The ground that the live tests stand on: each server takes what one task sends."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.live.process import LIMIT
from tests.live.shop import trace_of

if TYPE_CHECKING:
    from taskobs.testing.receiver import Receiver
    from tests.live.celery_process import Broker, LiveApp
    from tests.live.services import Bugsink, Jaeger
    from tests.live.shop import Shop

ADD = "result = app.add.delay(1, 2).get(timeout=90)"
FAIL = "given = app.fail.delay(); given.get(timeout=90, propagate=False); result = given.id"


def test_a_task_is_one_trace(live: LiveApp, broker: Broker, receiver: Receiver) -> None:
    """I call a task over Redis or RabbitMQ, and see its publish and its run in one trace."""
    worker = live.worker(broker)
    producer = live.producer(broker)
    assert producer.run(ADD) == 3
    assert producer.close() == 0
    worker.stop()
    assert receiver.wait_for(lambda r: len(r.spans) >= 2, LIMIT)
    by_name = {span.name: span for span in receiver.spans}
    publish, run = by_name[f"publish {live.task('add')}"], by_name[f"run {live.task('add')}"]
    assert (run.trace_id, run.parent_id) == (publish.trace_id, publish.span_id)
    assert receiver.events == ()


def test_any_machine_runs_a_worker(live: LiveApp, file_broker: Broker, receiver: Receiver) -> None:
    """I have no broker at hand, and a folder does."""
    live.worker(file_broker, concurrency=1)
    assert live.producer(file_broker).run(ADD) == 3
    assert receiver.wait_for(lambda r: len(r.spans) >= 2, LIMIT)


def test_jaeger_shows_the_trace(live: LiveApp, redis_broker: Broker, jaeger: Jaeger) -> None:
    """I look a task's trace up in Jaeger, and its two spans are there."""
    live.env["OTEL_EXPORTER_OTLP_ENDPOINT"] = jaeger.endpoint
    live.worker(redis_broker)
    producer = live.producer(redis_broker)
    trace_id = producer.run("result = app.echo_request.delay().get(timeout=90)")["trace_id"]
    producer.close()
    names = {span["operationName"] for span in jaeger.trace(trace_id, spans=2)["spans"]}
    assert names == {f"publish {live.task('echo_request')}", f"run {live.task('echo_request')}"}


def test_bugsink_shows_the_error(live: LiveApp, redis_broker: Broker, bugsink: Bugsink) -> None:
    """I see a task's error in a server that speaks Sentry's protocol, tagged with the task."""
    project = bugsink.project()
    live.env["SENTRY_DSN"] = project.dsn
    live.worker(redis_broker)
    task_id = live.producer(redis_broker).run(FAIL)
    [event] = project.events()
    assert event["tags"]["celery.task_id"] == task_id


def test_a_failure_is_one_event_of_its_trace(shop: Shop) -> None:
    """I go from a task's error in Sentry to its trace."""
    task_id = shop.call("fail.delay()")
    publish, run = shop.spans(task_id, 2)
    [event] = shop.events(task_id, 1)
    assert (publish.trace_id, run.parent_id) == (run.trace_id, publish.span_id)
    assert trace_of(event) == (run.trace_id, run.span_id)
