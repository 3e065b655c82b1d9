"""The shop, with the topic routing of Celery's documentation, and other queues than the default."""

from __future__ import annotations

import os
from typing import Any

from celery import Task
from kombu import Exchange, Queue
from kombu.common import Broadcast

from tests.live.apps.shop import add, app, fail

__all__ = ["add", "again", "app", "fail"]

QUORUM = {"x-queue-type": "quorum"}
MEDIA = Exchange("media", type="topic")
if os.environ.get("APP_QUEUES") == "quorum":
    app.conf.update(
        task_default_queue="orders",
        task_default_exchange="shop",
        task_default_exchange_type="topic",
        task_default_routing_key="orders",
        task_default_queue_type="quorum",
        broker_native_delayed_delivery_queue_type="quorum",
    )
    app.conf.task_queues = (
        Queue(
            "orders", Exchange("shop", type="topic"), routing_key="orders", queue_arguments=QUORUM
        ),
    )
else:
    app.conf.task_queues = (
        Queue("celery", Exchange("celery"), routing_key="celery"),
        Queue("feed", MEDIA, routing_key="feed.#"),
        Queue("videos", MEDIA, routing_key="media.*.video"),
        Broadcast("news"),
    )


@app.task(bind=True, max_retries=1)
def again(self: Task[Any, Any]) -> int:
    """Retry once, by the way that the message came."""
    if not self.request.retries:
        raise self.retry(countdown=0, exc=ValueError("not yet"))
    return self.request.retries
