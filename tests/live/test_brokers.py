"""The broker that was really used: its address on each publish and run."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from taskobs import semconv
from tests.live import services
from tests.live.celery_process import Broker
from tests.live.shop import QUICK, open_shop

if TYPE_CHECKING:
    from taskobs.testing.receiver import Receiver
    from taskobs.testing.wire import ReceivedSpan
    from tests.live.celery_process import LiveApp


CONSUMER = "celery.worker.consumer.consumer"


def address(span: ReceivedSpan) -> tuple[object, object, object]:
    """Give the kind, the host and the port of the broker on a span."""
    names = semconv.MESSAGING_SYSTEM, semconv.SERVER_ADDRESS, semconv.SERVER_PORT
    kind, host, port = (span.attributes.get(name) for name in names)
    return kind, host, port


def used(broker: Broker) -> tuple[object, object, object]:
    parts = urlsplit(broker.url)
    return broker.kind, parts.hostname, parts.port


def test_the_first_broker_of_a_list_is_dead(
    live: LiveApp, broker: Broker, receiver: Receiver
) -> None:
    """My first broker is dead: the second one is on my spans, and the outage is one event."""
    scheme = broker.url.partition("://")[0]
    dead = f"{scheme}://localhost:{services.free_port()}"
    failing = Broker(broker.kind, f"{dead};{broker.url}", broker.backend)
    shop = open_shop(live, failing, receiver)
    for _ in range(2):
        task_id = shop.call("add.delay(1, 2)")
        assert [address(span) for span in shop.spans(task_id, 2)] == [used(broker)] * 2
    assert shop.worker.stop() == 0
    assert shop.worker.log.count("Cannot connect to") > 1
    assert [event.data["logger"] for event in receiver.events] == [CONSUMER]


def test_a_worker_that_gives_up_on_its_broker_is_one_event(
    live: LiveApp, redis_broker: Broker, receiver: Receiver
) -> None:
    """My worker finds no broker, and ends when no retry is left: one event, not one a retry."""
    dead = f"redis://localhost:{services.free_port()}"
    broker = Broker("redis", f"{dead};{dead}", redis_broker.backend)
    env = {**QUICK, "APP_CONFIG": '{"broker_connection_max_retries": 2}'}
    worker = live.worker(broker, env=env, ready=False)
    assert worker.wait() != 0
    assert worker.log.count("Cannot connect to") > 1
    assert "Unrecoverable error" in worker.log
    assert [event.data["logger"] for event in receiver.events] == [CONSUMER]


def test_a_connection_that_is_given_with_a_task(
    live: LiveApp, redis_broker: Broker, rabbit_broker: Broker, receiver: Receiver
) -> None:
    """I publish over another connection than the app's, and see which."""
    shop = open_shop(live, redis_broker, receiver)
    source = f"""
with app.app.connection_for_write({rabbit_broker.url!r}) as connection:
    result = app.add.apply_async((1, 2), connection=connection).id
"""
    [publish] = shop.spans(shop.run(source), 1)
    assert address(publish) == used(rabbit_broker)


def test_workers_consume_from_another_broker(
    live: LiveApp, redis_broker: Broker, rabbit_broker: Broker, receiver: Receiver
) -> None:
    """I consume from one broker and publish to another, and each span names its own."""
    settings = {"broker_read_url": rabbit_broker.url, "broker_write_url": redis_broker.url}
    env = {**QUICK, "APP_CONFIG": json.dumps(settings)}
    shop = open_shop(live, redis_broker, receiver, env=env)
    [lost] = shop.spans(shop.run("result = app.add.delay(1, 2).id"), 1)
    assert address(lost) == used(redis_broker)
    source = f"""
with app.app.connection_for_write({rabbit_broker.url!r}) as connection:
    result = app.add.apply_async((1, 2), connection=connection).id
"""
    spans = shop.spans(shop.run(source), 2)
    assert [address(span) for span in spans] == [used(rabbit_broker)] * 2


def test_dead_letters_are_marked(live: LiveApp, rabbit_broker: Broker, receiver: Receiver) -> None:
    """My message was a dead letter before it ran: I see from which queue, why, and how often."""
    shop = open_shop(live, rabbit_broker, receiver)
    source = """
from kombu import Exchange, Queue
with app.app.connection_for_write() as connection:
    waiting = Queue("waiting", queue_arguments={
        "x-dead-letter-exchange": "", "x-dead-letter-routing-key": "celery", "x-message-ttl": 100,
    })
    waiting(connection.default_channel).declare()
result = app.add.apply_async((1, 2), exchange="", routing_key="waiting", queue="waiting",
                             declare=[]).id
"""
    publish, run = shop.spans(shop.run(source), 2)
    assert publish.attributes[semconv.CELERY_QUEUE] == "waiting"
    assert run.attributes[semconv.CELERY_QUEUE] == "celery"
    assert run.attributes[semconv.CELERY_DEAD_LETTER_QUEUE] == "waiting"
    assert run.attributes[semconv.CELERY_DEAD_LETTER_REASON] == "expired"
    assert run.attributes[semconv.CELERY_DEAD_LETTER_COUNT] == 1
