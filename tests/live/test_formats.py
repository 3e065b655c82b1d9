"""Messages in every format and over every kind of exchange: each has its spans and its event."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from taskobs import semconv
from taskobs.testing.receiver import Receiver
from tests.live.audit import AuditedShop
from tests.live.celery_process import Broker, LiveApp
from tests.live.shop import QUICK, tags, trace_of

if TYPE_CHECKING:
    from collections.abc import Generator

    from taskobs.testing.wire import ReceivedSpan
    from tests.live import services

FORMATS = "tests.live.apps.formats"
ROOT_MAY_UNPICKLE = {"C_FORCE_ROOT": "1"}  # Celery asks whoever runs the tests as root
CALLS = {"add": "(1, 2)", "fail": "()"}


@pytest.fixture(scope="module", params=["rabbitmq-prefork", "redis-prefork"])
def formats(
    request: pytest.FixtureRequest,
    redis_server: services.Redis,
    tmp_path_factory: pytest.TempPathFactory,
) -> Generator[AuditedShop]:
    """A worker that takes all formats over each broker, and a producer."""
    kind, backend = str(request.param).partition("-")[0], redis_server.url()
    url = backend
    if kind == "rabbitmq":
        rabbitmq: services.RabbitMQ = request.getfixturevalue("rabbitmq_server")
        url = rabbitmq.url()
    folder, broker = tmp_path_factory.mktemp(request.param), Broker(kind, url, backend)
    with Receiver() as receiver, LiveApp(folder, receiver.endpoint, receiver.dsn) as live:
        worker = live.worker(broker, app=FORMATS, env={**QUICK, **ROOT_MAY_UNPICKLE})
        producer = live.producer(broker, app=FORMATS, env=QUICK)
        yield AuditedShop(live, broker, receiver, worker, producer)


def send(shop: AuditedShop, options: str, *, runs: int = 1) -> list[ReceivedSpan]:
    """Send a task that succeeds and one that fails; give their run spans, ``runs`` of each."""
    found: list[ReceivedSpan] = []
    for task, arguments in CALLS.items():
        task_id = shop.call(f"{task}.apply_async({arguments}, {options})")
        publish, *ran = shop.spans(task_id, 1 + runs)
        events = shop.events(task_id, runs if task == "fail" else 0)
        assert (publish.kind, publish.status) == ("producer", "unset")
        assert {(run.trace_id, run.parent_id) for run in ran} == {
            (publish.trace_id, publish.span_id)
        }
        ends = {run.attributes[semconv.CELERY_OUTCOME] for run in ran}
        assert ends == {"succeeded" if task == "add" else "failed"}
        addresses = {(run.trace_id, run.span_id) for run in ran if run.status == "error"}
        assert {trace_of(event) for event in events} == addresses
        found += ran
    return found


@pytest.mark.parametrize("serializer", ["json", "pickle", "yaml", "msgpack"])
def test_serializer(formats: AuditedShop, serializer: str) -> None:
    """I send tasks in any format that the worker takes."""
    send(formats, f"serializer={serializer!r}")


@pytest.mark.parametrize("compression", ["gzip", "zlib"])
def test_compression(formats: AuditedShop, compression: str) -> None:
    """I send compressed tasks."""
    send(formats, f"compression={compression!r}")


def test_priority(formats: AuditedShop) -> None:
    """I give a task a priority, and see it on its run."""
    for run in send(formats, "queue='urgent', priority=7"):
        assert run.attributes[semconv.CELERY_PRIORITY] == 7


def test_topic_exchange(formats: AuditedShop) -> None:
    """I route tasks through a topic exchange: I see one queue, and by which exchange and key."""
    for run in send(formats, "queue='topical', routing_key='shop.orders.eu'"):
        task_id = str(run.attributes[semconv.CELERY_TASK_ID])
        for span in formats.spans(task_id, 2):
            assert span.attributes[semconv.MESSAGING_DESTINATION_NAME] == "topical"
            assert span.attributes[semconv.CELERY_QUEUE] == "topical"
            assert span.attributes[semconv.CELERY_EXCHANGE] == "topics"
            assert span.attributes[semconv.CELERY_ROUTING_KEY] == "shop.orders.eu"
        for event in formats.events(task_id, int(run.status == "error")):
            assert tags(event)[semconv.TAG_QUEUE] == "topical"


# Over Redis, Celery sends a Broadcast to nobody from a process that has not declared it.
@pytest.mark.parametrize("formats", ["rabbitmq-prefork"], indirect=True)
def test_broadcast(formats: AuditedShop) -> None:
    """I tell all workers, and see a run for each of them under the one publish."""
    second = formats.live.worker(
        formats.broker,
        "-Q",
        "everybody",
        pool="solo",
        app=FORMATS,
        env={**QUICK, **ROOT_MAY_UNPICKLE},
    )
    ran = send(formats, "queue='everybody'", runs=2)
    assert second.stop() == 0
    assert len({run.attributes[semconv.CELERY_HOSTNAME] for run in ran}) == 2
    assert len({run.span_id for run in ran}) == len(ran)


def test_nothing_else_came(formats: AuditedShop) -> None:
    """I stop the worker, and all that it sent are the spans and events of the tests above."""
    formats.audit()
