# Some of what these tests look at has no public name.
# pyright: reportPrivateUsage=false
from __future__ import annotations

import gc
from types import SimpleNamespace

import pytest
from celery import VERSION, Celery

from taskobs.celery.adapter import brokers
from taskobs.model import Broker


@pytest.mark.parametrize(
    ("url", "broker"),
    [
        ("memory://", Broker(system="memory")),
        ("filesystem://", Broker(system="filesystem")),
        ("redis://:secret@cache:6380/1", Broker(system="redis", address="cache", port=6380)),
        ("redis://", Broker(system="redis", address="localhost", port=6379)),
        ("redis://cache", Broker(system="redis", address="cache", port=6379)),
        ("redis+socket:///run/redis.sock", Broker(system="redis", address="/run/redis.sock")),
        ("sentinel://a:26380;sentinel://b", Broker(system="redis", address="a", port=26380)),
        ("amqp://me:secret@mq//", Broker(system="rabbitmq", address="mq", port=5672)),
        ("amqps://me:secret@mq//", Broker(system="rabbitmq", address="mq", port=5671)),
        ("amqp://", Broker(system="rabbitmq", address="localhost", port=5672)),
        ("pyamqp://mq:5673", Broker(system="rabbitmq", address="mq", port=5673)),
        (
            "amqp://me:secret@a//;amqp://me:secret@b//",
            Broker(system="rabbitmq", address="a", port=5672),
        ),
    ],
)
def test_a_broker_is_where_it_is_and_never_a_password(url: str, broker: Broker) -> None:
    """My spans say which broker they went to, never how I log in."""
    app = Celery("shop", broker=url, set_as_current=False)
    assert brokers.published_to(app) == brokers.consumed_from(app) == broker


def test_workers_may_consume_from_another_broker_than_is_published_to() -> None:
    """I publish to one broker and consume from another, and each span names its own."""
    app = Celery("shop", set_as_current=False)
    app.conf.update(broker_write_url="redis://write", broker_read_url="redis://read")
    assert brokers.published_to(app).address == "write"
    assert brokers.consumed_from(app).address == "read"


class Connection:
    """A connection whose transport is of a library that is not installed here."""

    ssl = False

    def __init__(self, transport_cls: str, hostname: str | None, port: object = None) -> None:
        self.transport_cls, self.hostname, self.port = transport_cls, hostname, port

    @property
    def transport(self) -> object:
        raise ModuleNotFoundError(self.transport_cls)


@pytest.mark.parametrize(
    ("transport", "hostname", "broker"),
    [
        (
            "sqla",
            "postgresql://me:secret@db:5432/shop",
            Broker(system="sqla", address="db", port=5432),
        ),
        ("sqla", "postgresql://me:se[cret@db/shop", Broker(system="sqla")),
        ("sqla", "sqlite:////tmp/shop.db", Broker(system="sqla")),
        ("mongodb", "srv://me:secret@db/shop", Broker(system="mongodb", address="db")),
        ("redis", "socket://:secret@/run/r.sock", Broker(system="redis", address="/run/r.sock")),
        ("redis", "a,b", Broker(system="redis", address="a,b")),
        ("redis", "::1", Broker(system="redis", address="::1")),
        ("redis", "me:secret@host", Broker(system="redis")),
        ("sqs", None, Broker(system="aws_sqs")),
        ("sqs", "localhost", Broker(system="aws_sqs", address="localhost")),
        (
            "azureservicebus",
            "azureservicebus://me:secret@shop",
            Broker(system="servicebus", address="shop"),
        ),
        ("gcpubsub", "gcpubsub://projects/shop", Broker(system="gcp_pubsub")),
        ("confluentkafka", "log", Broker(system="kafka", address="log")),
        ("shop.transports:Own", "host", Broker(system="own", address="host")),
    ],
)
def test_what_a_transport_calls_its_host_is_cut_to_an_address(
    transport: str, hostname: str | None, broker: Broker
) -> None:
    """Transports that give a whole URL as the host don't give my password away."""
    assert brokers.of_connection(Connection(transport, hostname)) == broker


def test_a_port_that_is_none_costs_the_port_alone() -> None:
    """I mistype a port, and still see which broker it was meant for."""
    found = brokers.of_connection(Connection("redis", "cache", "six"))
    assert found == Broker(system="redis", address="cache")


def test_an_app_whose_broker_can_not_be_told_has_none() -> None:
    """I mistype the URL of my broker: the publish says so, and nothing of taskobs' raises."""
    app = Celery("shop", broker="amqp://mq:port//", set_as_current=False)
    assert brokers.published_to(app) == Broker()


@pytest.mark.skipif(
    VERSION[:2] < (5, 4), reason="Celery 5.3 keeps each app that has made a connection for ever"
)
def test_brokers_of_apps_that_are_gone_are_forgotten() -> None:
    """I make apps as I like, and none is kept."""
    apps = [Celery(f"shop{n}", broker="redis://h", set_as_current=False) for n in range(5)]
    assert all(brokers.published_to(app).address == "h" for app in apps)
    numbers = {id(app) for app in apps}
    assert numbers <= brokers._of_apps.keys()
    apps.clear()
    gc.collect()
    assert not numbers & brokers._of_apps.keys()


class Pool:
    """A pool of redis-py that asks Sentinel, which it has done or not."""

    def __init__(self, master: object = None) -> None:
        self.master_address = master


MASTERS: list[tuple[object, Broker]] = [
    (("10.0.0.7", 6380), Broker(system="redis", address="10.0.0.7", port=6380)),
    (None, Broker(system="redis", address="a", port=26380)),
    (("10.0.0.7",), Broker(system="redis", address="a", port=26380)),
    ("10.0.0.7:6380", Broker(system="redis", address="a", port=26380)),
]


@pytest.mark.parametrize(("master", "broker"), MASTERS)
def test_the_master_is_what_a_message_went_to_or_came_from(master: object, broker: Broker) -> None:
    """I use Sentinel, and see the server that my message went to; before that, whom was asked."""
    app = Celery("shop", broker="sentinel://a:26380", set_as_current=False)
    with app.connection_for_write() as connection:
        transport = SimpleNamespace(client=connection)
        channel = SimpleNamespace(pool=Pool(master), async_pool=Pool(master), connection=transport)
        sender = SimpleNamespace(connection=connection, channel=channel)
        assert brokers.sent_over(sender, published=True) == broker
        assert brokers.received_over(channel) == broker
        assert brokers.sent_over(sender, published=False) == MASTERS[1][1]
    assert brokers.varies(app)


def test_no_channel_is_opened_to_tell_a_broker() -> None:
    """My publish failed, or my broker is no Sentinel: taskobs opens no connection of its own."""
    for url, published in (("sentinel://a", False), ("redis://a", True), ("redis://a", False)):
        app = Celery("shop", broker=url, set_as_current=False)
        with app.connection_for_write() as connection:
            sender = SimpleNamespace(connection=connection)
            assert brokers.sent_over(sender, published=published).address == "a"
            assert not connection.connected
