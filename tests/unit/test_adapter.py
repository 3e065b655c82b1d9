# Some of what these tests look at has no public name.
# pyright: reportPrivateUsage=false
from __future__ import annotations

import pytest
from celery import Celery

from taskobs import adapter, names
from taskobs.facts import Broker


@pytest.mark.parametrize(
    ("url", "broker"),
    [
        ("memory://", Broker(system="memory")),
        ("redis://:secret@cache:6380/1", Broker(system="redis", address="cache", port=6380)),
        ("amqp://me:secret@mq//", Broker(system="rabbitmq", address="mq", port=5672)),
        (
            "amqp://me:secret@a//;amqp://me:secret@b//",
            Broker(system="rabbitmq", address="a", port=5672),
        ),
    ],
)
def test_a_broker_is_where_it_is_and_never_a_password(url: str, broker: Broker) -> None:
    """My spans tell which broker they went to, and not how I log in to it."""
    app = Celery("shop", broker=url, set_as_current=False)
    assert adapter.publish_of(app, "add", {}, None).broker == broker


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("postgresql://me:secret@db:5432/shop", "db"),
        ("srv://me:secret@db/shop", "db"),
        ("socket://:secret@/tmp/redis.sock", ""),
        ("sqlite:////tmp/shop.db", ""),
        ("a,b", "a,b"),
        ("::1", "::1"),
    ],
)
def test_an_address_that_is_a_url_is_cut_to_its_host(given: str, shown: str) -> None:
    """Transports that give a whole URL as the host don't give my password away."""
    assert adapter._host(given) == shown


@pytest.mark.parametrize(
    "text", [None, "", "x", "nan", "inf", "-inf", "-5", "0", "1e999", "1" * 999]
)
def test_a_publish_time_that_is_none_gives_no_latency(text: str | None) -> None:
    """A header that is no time tells nothing, instead of something wrong."""
    assert adapter._queue_latency({names.HEADER_PUBLISHED_AT: text}.get, None, 100.0) is None


@pytest.mark.parametrize(
    ("published", "eta", "latency"),
    [
        ("90", None, 10.0),
        ("110", None, 0.0),  # the clocks of two machines differ
        ("90", "1970-01-01T00:01:38+00:00", 2.0),
        ("90", "1970-01-01T00:01:38", 2.0),
        ("90", "1970-01-01T00:00:10+00:00", 10.0),
        ("90", "soon", None),
    ],
)
def test_queue_latency(published: str, eta: str | None, latency: float | None) -> None:
    """Latency counts from the publish, or from the ETA if that is later, and is never negative."""
    header = {names.HEADER_PUBLISHED_AT: published}.get
    assert adapter._queue_latency(header, eta, 100.0) == latency
