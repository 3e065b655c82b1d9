"""A shop for many tenants: each run is for one, and says which on all channels."""

from __future__ import annotations

import logging
import os
import time
from threading import Barrier
from typing import TYPE_CHECKING

from celery.utils.log import get_task_logger

import taskobs
from tests.live.apps.shop import app

if TYPE_CHECKING:
    from celery import Task

__all__ = ["app", "attempts", "fails", "follow"]

PATIENCE = 240.0
everybody = Barrier(int(os.environ.get("CROWD", "1")))
loggers = (logging.getLogger("tenants"), get_task_logger("tenants"))


def say(name: str) -> None:
    """Log under a name."""
    for logger in loggers:
        logger.warning("seen %s", name)


@app.task(bind=True, max_retries=1, default_retry_delay=0)
def attempts(self: Task[..., None]) -> None:
    """Say who it is for, meet all others, add a value, publish, and retry once; then fail."""
    name = str(self.request.id)
    say(name)
    if self.request.retries:
        raise ValueError(name)
    everybody.wait(PATIENCE)
    taskobs.set_context(order=f"order-of-{name}")
    everybody.wait(PATIENCE)
    with taskobs.context(part=f"part-of-{name}"):
        follow.apply_async(task_id=f"follows-{name}")
        everybody.wait(PATIENCE)
        say(name)
    raise self.retry(countdown=0, exc=ValueError(name))


@app.task
def follow() -> None:
    """Take a moment."""
    time.sleep(0.001)


@app.task
def fails() -> None:
    """Fail, for nobody."""
    say("fails")
    raise ValueError("fails")
