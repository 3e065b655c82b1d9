"""The app that is measured: ``python -m tools.scale.app`` publishes, ``celery -A`` runs it."""

from __future__ import annotations

import logging
import os
import sys
from typing import Any, Final

from celery import Celery
from opentelemetry import trace

import taskobs
from tools.scale.app_shape import FAILING, NAMES

app = Celery("shop", broker=os.environ["SCALE_BROKER"])
app.conf.update(task_ignore_result=True, broker_connection_retry_on_startup=True)
if not os.environ.get("SCALE_BARE"):
    taskobs.init()
_log = logging.getLogger("shop")
_tracer = trace.get_tracer("shop")


def _work(order: int, spans: int, fail: bool) -> None:  # noqa: FBT001  # an argument of a task
    for number in range(spans):
        with _tracer.start_as_current_span(f"SELECT shop.orders_{number}") as span:
            span.set_attribute("db.system.name", "postgresql")
            span.set_attribute("db.query.text", "SELECT id, total FROM orders WHERE id = %s")
            span.set_attribute("server.address", "db.internal")
            span.set_attribute("server.port", 5432)
    if fail:
        raise ValueError(f"the bank declined the card of order {order}")


def _named(name: str) -> Any:  # noqa: ANN401  # a task
    def task(order: int, spans: int, fail: bool) -> None:  # noqa: FBT001  # same
        _work(order, spans, fail)

    return app.task(name=name)(task)


TASKS: Final = [_named(f"shop.orders.task_{number:02}") for number in range(NAMES)]


def publish(tasks: int, names: int, spans: int, *, failing: bool) -> None:
    """Publish so many tasks, under so many names in turn; of each name some fail, if asked for."""
    for order in range(tasks):
        fail = failing and (order // names) % FAILING == 0
        TASKS[order % names].delay(order, spans, fail)


if __name__ == "__main__":
    _tasks, _names, _spans, _failing = map(int, sys.argv[1:])
    publish(_tasks, _names, _spans, failing=bool(_failing))
