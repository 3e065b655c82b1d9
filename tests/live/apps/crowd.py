"""The shop, with tasks that many workers' threads or greenlets are in at the same time."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from threading import Barrier
from typing import TYPE_CHECKING

import sentry_sdk
from celery.utils.log import get_task_logger
from opentelemetry import trace

from tests.live.apps.shop import add, app, fail, stay

if TYPE_CHECKING:
    from celery import Task

__all__ = ["add", "app", "fail", "hold_and_fail", "mingle"]

PATIENCE = 240.0
everybody = Barrier(int(os.environ.get("CROWD", "1")))
loggers = (logging.getLogger("crowd"), get_task_logger("crowd"))


@app.task(bind=True)
def hold_and_fail(self: Task[..., None], where: str) -> None:
    """Stay as `shop.hold` does, and fail."""
    raise ValueError(stay(str(self.request.id), Path(where)))


def leave_traces(name: str) -> None:
    """Log, and leave a breadcrumb, under a name."""
    for logger in loggers:
        logger.warning("seen %s", name)
    sentry_sdk.add_breadcrumb(category="crowd", message=name)


@app.task(bind=True)
def mingle(self: Task[..., None]) -> None:
    """Leave all kinds of traces, wait for everybody else to do so, leave more, and fail."""
    name = str(self.request.id)
    sentry_sdk.set_tag("crowd", name)
    leave_traces(name)
    everybody.wait(PATIENCE)
    with trace.get_tracer("crowd").start_as_current_span(f"inner {name}"):
        leave_traces(name)
        everybody.wait(PATIENCE)
        add.apply_async((1, 2), task_id=f"called-by-{name}")
        leave_traces(name)
    everybody.wait(PATIENCE)
    raise ValueError(name)
