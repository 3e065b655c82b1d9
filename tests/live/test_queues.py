"""One name for one queue: on the publish, the run, the event and the metric."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest

from taskobs import semconv
from tests.live.celery_process import SHOP
from tests.live.shop import QUICK, Shop, tags

if TYPE_CHECKING:
    from taskobs.testing.receiver import Receiver
    from taskobs.testing.wire import ReceivedSpan
    from tests.live.celery_process import Broker, LiveApp

ROUTED = "tests.live.apps.routed"
QUEUE = semconv.MESSAGING_DESTINATION_NAME
ROUTES = [
    ("queue='feed'", "feed"),
    ("exchange='media', routing_key='feed.import'", "feed"),
    ("exchange='media', routing_key='media.cats.video'", "videos"),
    ("queue='videos', routing_key='media.dogs.video'", "videos"),
    ("queue='celery'", "celery"),
    ("", "celery"),
    ("priority=5", "celery"),
]


BROADCASTS = [("exchange='news', routing_key='any'", "news"), ("queue='news'", "news")]
"""Over RabbitMQ alone: a producer of kombu's doesn't declare what makes one of Redis' channels."""


def open_routed(live: LiveApp, broker: Broker, receiver: Receiver, queues: str = "") -> Shop:
    env = {**QUICK, "APP_QUEUES": queues}
    worker = live.worker(broker, app=ROUTED, env=env)
    return Shop(live, broker, receiver, worker, live.producer(broker, app=ROUTED, env=env))


def names(spans: list[ReceivedSpan]) -> set[tuple[object, object]]:
    """Give the names of the queue on spans: OpenTelemetry's and Celery's."""
    keys = QUEUE, semconv.CELERY_QUEUE
    return {(span.attributes.get(keys[0]), span.attributes.get(keys[1])) for span in spans}


def counted(shop: Shop) -> set[tuple[str, str]]:
    """Stop the worker, and give the tasks and queues by which its runs are counted."""
    assert shop.worker.stop() == 0
    sent = [request for request in shop.receiver.requests if request.path == "/v1/metrics"]
    assert sent
    return {
        (labels[semconv.CELERY_TASK_NAME].rpartition(".")[2], labels[semconv.CELERY_QUEUE])
        for request in sent
        for resource in ExportMetricsServiceRequest.FromString(request.body).resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
        if metric.name == semconv.METRIC_TASK_DURATION
        for point in metric.histogram.data_points
        for labels in [{one.key: one.value.string_value for one in point.attributes}]
    }


def test_topic_routing(live: LiveApp, broker: Broker, receiver: Receiver) -> None:
    """I route by topics, a broadcast and defaults, and each queue has one name wherever I look."""
    shop = open_routed(live, broker, receiver)
    routes = [*ROUTES, *(BROADCASTS if broker.kind == "rabbitmq" else [])]
    for options, queue in routes:
        sent = f"app.fail.apply_async({options})"
        task_id = shop.run(f"sent = {sent}\nresult = sent.id")
        spans = shop.spans(task_id, 2)
        assert names(spans) == {(queue, queue)}, options
        [event] = shop.events(task_id, 1)
        assert tags(event)[semconv.TAG_QUEUE] == queue
    # A retry goes the way that its message came. Over Redis it may get lost: no topic exchange is
    # declared for a retry, and kombu then takes it for a direct one (seen in Celery 5.7).
    for options, queue in routes[:3] if broker.kind == "rabbitmq" else []:
        task_id = shop.run(f"result = app.again.apply_async({options}).id")
        assert names(shop.spans(task_id, 4)) == {(queue, queue)}, options
    again = {("again", queue) for _, queue in routes[:3] if broker.kind == "rabbitmq"}
    assert counted(shop) == {("fail", queue) for _, queue in routes} | again


def test_countdowns_on_a_quorum_queue(
    live: LiveApp, rabbit_broker: Broker, receiver: Receiver
) -> None:
    """I delay tasks on a quorum queue by eight different times, and see one queue."""
    pytest.importorskip(
        "kombu.transport.native_delayed_delivery", reason="Celery 5.5 delays in RabbitMQ"
    )
    shop = open_routed(live, rabbit_broker, receiver, "quorum")
    source = "result = [app.fail.apply_async(countdown=n).id for n in range(1, 9)]"
    for task_id in shop.run(source):
        publish, run = shop.spans(task_id, 2)
        assert names([publish, run]) == {("orders", "orders")}
        assert publish.attributes[semconv.CELERY_EXCHANGE] == "celery_delayed_27"
        [event] = shop.events(task_id, 1)
        assert tags(event)[semconv.TAG_QUEUE] == "orders"
    # A message that is put back: RabbitMQ counts the deliveries of quorum queues.
    requeue = f"app.app.send_task('{SHOP}.reject', kwargs={{'requeue': True}})"
    _, _, again = shop.spans(shop.run(f"result = {requeue}.id"), 3)
    assert names([again]) == {("orders", "orders")}
    assert again.attributes[semconv.CELERY_REDELIVERED] is True
    assert again.attributes[semconv.CELERY_DELIVERY_COUNT] == 1
    assert counted(shop) == {("fail", "orders"), ("reject", "orders")}
