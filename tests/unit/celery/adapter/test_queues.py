from __future__ import annotations

from typing import Any

import pytest
from celery import Celery
from kombu import Exchange, Queue, binding
from kombu.common import Broadcast

from taskobs.celery.adapter.queues import queue_of

MEDIA = Exchange("media", type="topic")
DIRECT = Exchange("letters", type="direct")
DELAYED = "0." * 27 + "1."


@pytest.fixture
def shop() -> Celery:
    """Give an app with the topic routing of Celery's documentation, and more."""
    app = Celery("shop", broker="memory://", set_as_current=False)
    made: Any = Queue
    app.conf.task_queues = (
        made("celery", Exchange("celery", type="topic"), routing_key="celery"),
        made("feed", MEDIA, routing_key="feed.#"),
        made("video", MEDIA, routing_key="media.*.video"),
        made("images", MEDIA, routing_key="media.*.image"),
        made("all", MEDIA, routing_key="media.#"),
        made("letters", DIRECT, routing_key="letter"),
        made("bound", bindings=[binding(DIRECT, routing_key="parcel")]),
        Broadcast("news"),
    )
    return app


@pytest.mark.parametrize(
    ("exchange", "key", "declared", "name"),
    [
        ("", "orders", (), "orders"),
        ("media", "feed.import", (), "feed"),
        ("media", "feed", (), "feed"),  # in AMQP, `#` is no word too
        ("media", "feed.#", ("feed",), "feed"),  # as Celery publishes with queue="feed"
        ("media", "media.x.video", (), "media"),  # to two queues: no one queue
        ("media", "media.x.video", ("video",), "video"),
        ("media", "media.x.y.video", (), "all"),
        ("media", "other", ("feed",), "media"),  # which goes to no queue that is known here
        ("letters", "letter", (), "letters"),
        ("letters", "letter.x", ("celery",), "letters"),  # the exchange, not a queue of another
        ("letters", "parcel", (), "bound"),
        ("news", "anything", (), "news"),
        ("news", None, (), "news"),
        ("unknown", "any.key", ("celery",), "unknown"),
        ("celery_delayed_27", DELAYED + "celery", (), "celery"),
        ("celery_delayed_delivery", DELAYED + "feed.import", (), "feed"),
        ("own_celery_delayed_3", DELAYED + "feed.import", (), "feed"),
        ("celery_delayed_27", DELAYED + "nobody's", (), "celery_delayed"),
    ],
)
def test_a_queue_has_one_name(
    shop: Celery, exchange: str, key: str | None, declared: tuple[str, ...], name: str
) -> None:
    """However a message is routed, its queue has one name, or it is named by its exchange."""
    queues = [shop.amqp.queues[one] for one in declared]
    assert queue_of(shop, exchange, key, queues) == name


def test_names_are_bounded(shop: Celery) -> None:
    """Routing keys of any number and length make neither many names nor long ones."""
    names = {queue_of(shop, "media", f"user.{number}", ()) for number in range(2_000)}
    assert names == {"media"}
    assert len(queue_of(shop, "", "q" * 1_000, ()) or "") == 255


def test_an_app_whose_queues_can_not_be_told_costs_their_name_alone() -> None:
    """I mistype my queues: the publish says so, and nothing of taskobs' raises."""
    app = Celery("shop", broker="memory://", set_as_current=False)
    app.conf.task_queues = (3,)
    assert queue_of(app, "media", "key", ()) == "media"
    assert queue_of(app, "media", "key", [None, 3]) == "media"
