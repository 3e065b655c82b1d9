"""The shop of somebody who instruments Redis, which is the broker and a store of the app's own."""

# Neither library has types worth the name.
# pyright: reportUnknownMemberType=false

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import redis
from opentelemetry.instrumentation.redis import RedisInstrumentor

RedisInstrumentor().instrument()

from tests.live.apps.shop import *  # noqa: E402, F403  # it calls taskobs.init()
from tests.live.apps.shop import app as app  # noqa: E402, PLC0414
from tests.live.apps.shop import stay  # noqa: E402

if TYPE_CHECKING:
    from celery import Task

store = redis.Redis.from_url(os.environ["APP_BROKER"])


@app.task
def looks_up(key: str) -> str:
    """Ask the app's own store."""
    return str(store.get(key))


@app.task(acks_late=True)
def looks_up_late(key: str) -> str:
    """Ask it, and acknowledge the message afterwards."""
    return str(store.get(key))


@app.task(bind=True, acks_late=True)
def holds_late(self: Task[Any, Any], where: str) -> str:
    """Stay until it is let go, and acknowledge the message afterwards."""
    return stay(str(self.request.id), Path(where))
