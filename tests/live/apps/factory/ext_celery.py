"""The app's Celery, and its tasks."""

from __future__ import annotations

import os
from datetime import timedelta
from typing import Any

from celery import Celery, chord
from opentelemetry import trace

from tests.live.apps.factory.place import here

celery = Celery("factory", broker=os.environ["APP_BROKER"], backend=os.environ["APP_BACKEND"])
celery.conf.update(
    broker_connection_retry_on_startup=True,
    worker_proc_alive_timeout=120.0,
    beat_schedule={"often": {"task": "tick", "schedule": timedelta(seconds=0.5)}},
    beat_max_loop_interval=0.1,
)
here("after Celery()")

tracer = trace.get_tracer("factory")


@celery.task(name="add")
def add(x: int, y: int) -> int:
    """Succeed, with a span of the app's own."""
    with tracer.start_as_current_span("adding"):
        return x + y


@celery.task(name="fail")
def fail() -> None:
    """Fail."""
    raise ValueError("no funds")


@celery.task(name="again", bind=True)
def again(self: Any) -> int:
    """Succeed at the second attempt."""
    if not self.request.retries:
        raise self.retry(countdown=0)
    return 1


@celery.task(name="total")
def total(numbers: list[int]) -> int:
    """End a chord."""
    return sum(numbers)


@celery.task(name="tick")
def tick() -> None:
    """Run for beat."""


def order() -> None:
    """Publish what an order takes, and wait for it."""
    sent = [add.delay(1, 2), fail.delay(), again.delay()]
    sent.append(chord([add.s(1, 2), add.s(3, 4)], total.s()).delay())
    for one in sent:
        one.get(timeout=90, propagate=False)
