"""The shop, whose worker takes messages in all formats and over all kinds of exchanges."""

from __future__ import annotations

import os

from kombu import Exchange, Queue
from kombu.common import Broadcast

from tests.live.apps.shop import add, app, fail

__all__ = ["add", "app", "fail"]

PRIORITIES = {"x-max-priority": 10} if os.environ["APP_BROKER"].startswith("amqp") else {}
TOPICS = Exchange("topics", type="topic")

app.conf.update(
    accept_content=["json", "pickle", "yaml", "msgpack"],
    task_queues=[
        Queue("celery"),
        Queue("urgent", queue_arguments=PRIORITIES),
        Queue("topical", TOPICS, routing_key="shop.#"),
        Broadcast("everybody"),
    ],
    task_create_missing_queues=False,
)
