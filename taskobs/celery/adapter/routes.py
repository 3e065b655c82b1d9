"""What runs of one task have in common whose messages came the same way."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final
from weakref import ref

from taskobs import semconv
from taskobs.celery._types import Task
from taskobs.celery.adapter import brokers, stock_attributes
from taskobs.celery.adapter.names import MAPPED
from taskobs.celery.adapter.queues import queue_of
from taskobs.model import Route

# Whoever publishes chooses routing keys, so these bound the memory: at most some 3 kB a route.
_MOST: Final = 500
_CHARS: Final = 512
"""Of the names of task, exchange and routing key together."""
_FIELDS: Final = ("exchange", "routing_key", "priority", "redelivered")
"""What a worker says of each delivery, in this order."""
_PRIORITIES: Final = frozenset({int, type(None)})

_routes: Final[dict[object, Route]] = {}


def route_of(
    task: Task, name: str, delivery_info: Mapping[str, Any], headers: Mapping[str, str]
) -> Route | None:
    """Return what the run of a message has in common with others; None if that is not known.

    ``delivery_info`` comes with the message, so it may be anything.
    """
    kind: type[object] = type(delivery_info)
    if (
        kind is not dict
        or tuple(delivery_info) != _FIELDS
        or semconv.HEADER_BROKER in headers
        or semconv.HEADER_QUEUE in headers
    ):
        return None
    # A priority of 0.0 or False finds the route with 0, and is shown as that.
    key = name, *delivery_info.values()
    try:
        found = _routes.get(key)
    except TypeError:  # not hashable, so none of a worker's
        return None
    if found is None or found.task() is not task:
        found = _make(task, name, delivery_info)
        if found is not None:
            if len(_routes) >= _MOST:
                _routes.clear()
            _routes[key] = found
    return found


def _make(task: Task, name: str, delivery_info: Mapping[str, Any]) -> Route | None:
    exchange, routing_key, priority, redelivered = delivery_info.values()
    if (
        type(exchange) is not str
        or type(routing_key) is not str
        or type(priority) not in _PRIORITIES
        or type(redelivered) is not bool
        or len(name) + len(exchange) + len(routing_key) > _CHARS
        or name in MAPPED  # named after another task, which each message chooses
    ):
        return None
    try:
        task_ref = ref(task)  # the table must not keep an app alive
    except TypeError:
        return None
    return Route(
        task=task_ref,
        exchange=exchange,
        routing_key=routing_key,
        priority=priority,
        redelivered=redelivered,
        queue=queue_of(task.app, exchange, routing_key),
        broker=brokers.consumed_from(task.app),
        stock=stock_attributes.of_route(routing_key, delivery_info),
    )
