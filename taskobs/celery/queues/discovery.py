"""Which queues an app has: by its configuration, its tasks, and its workers."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final, cast

from taskobs.celery._types import App
from taskobs.celery.adapter.queues import CHARS, is_delay_queue

MOST: Final = 500
"""Queues that are polled; those of the configuration come first."""


def configured_queues(app: App) -> list[str]:
    """Return the queues that the app's configuration and its tasks name, each once.

    Those are ``task_queues`` or the default queue, and what ``task_routes``, ``beat_schedule`` and
    the ``queue`` of tasks say. A router that is a function says nothing. Broadcasts are left out:
    each worker has a queue of its own for one, with a random name.
    """
    conf, tasks = cast("Any", app).conf, cast("Any", app).tasks
    declared = [queue.name for queue in app.amqp.queues.values() if not _is_broadcast(queue)]
    named = [
        *declared,
        *_of_routes(conf.task_routes),
        *(getattr(task, "queue", None) for task in tasks.values()),
        *map(_of_entry, _values(conf.beat_schedule)),
    ]
    return unique(map(_name_of, named))


def consumed_queues(replies: Mapping[str, Any]) -> dict[str, int]:
    """Return how many workers consume from each queue, from what they answered."""
    found: dict[str, int] = {}
    for queues in replies.values():
        described = cast("Iterable[Any]", queues if isinstance(queues, list) else ())
        # `alias` is what kombu gives a broadcast.
        names = (_field(one, "name") for one in described if not _field(one, "alias"))
        for name in unique(map(_name_of, names)):
            found[name] = found.get(name, 0) + 1
    return found


def unique(names: Iterable[str | None]) -> list[str]:
    """Return the names of queues in their order, each once, at most `MOST`."""
    wanted = (name for name in names if name and not is_delay_queue(name))
    return list(dict.fromkeys(wanted))[:MOST]


def _is_broadcast(queue: Any) -> bool:
    return bool(getattr(queue, "alias", None))


def _of_routes(routes: Any) -> Iterator[Any]:
    """Give the queues in ``task_routes``: a mapping, pairs, or a list of either and functions."""
    if isinstance(routes, Mapping):
        for route in _values(routes):
            yield route if isinstance(route, str) else _field(route, "queue")
    elif isinstance(routes, (list, tuple)):
        for each in cast("list[Any]", routes):
            yield from _of_routes({each[0]: each[1]} if _is_pair(each) else each)


def _is_pair(route: Any) -> bool:
    """Whether it is the name or pattern of tasks, and where they go."""
    pair = isinstance(route, (list, tuple)) and len(cast("list[Any]", route)) > 1
    return pair and isinstance(route[0], (str, re.Pattern))


def _of_entry(entry: Any) -> Any:
    """Return the queue among the options of an entry of beat's schedule."""
    options = _field(entry, "options") or getattr(entry, "options", None)
    return _field(options, "queue")


def _values(mapping: Any) -> Iterable[Any]:
    return mapping.values() if mapping else ()


def _field(fields: Any, name: str) -> Any:
    return cast("Mapping[str, Any]", fields).get(name) if isinstance(fields, Mapping) else None


def _name_of(queue: Any) -> str | None:
    """Return the name of a queue that is given by its name, its fields, or as an object."""
    if isinstance(queue, Mapping):
        queue = _field(queue, "name")
    name = queue if isinstance(queue, str) else getattr(queue, "name", None)
    return name if isinstance(name, str) and 0 < len(name) <= CHARS else None
