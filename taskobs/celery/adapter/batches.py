"""A run that is for several messages: what they have in common, and who published each.

celery-batches, and whatever else sends ``task_prerun`` and ``task_postrun`` itself, has a request
without an id or a route; the messages are among the arguments, each with the dictionary of its
own request.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from itertools import islice
from typing import Any, Final, cast

from taskobs.celery._types import App
from taskobs.celery.adapter.headers import queue_latency, texts_of
from taskobs.celery.adapter.queues import queue_of
from taskobs.model import Run

_MOST: Final = 10_000
"""Arguments that are looked at."""


def describe_batch(run: Run, app: App, task_id: str, args: object) -> None:
    """Complete the record of a run whose request has another id than its signals, or none."""
    run.task_id = task_id
    run.route, run.usual = None, False
    messages = list(islice(_messages(args), _MOST))
    if not messages:
        return
    run.batch = [texts_of(fields, fields.get("headers")) for fields, _ in messages]
    waits = [
        queue_latency(headers, fields.get("eta"), run.began)
        for headers, (fields, _) in zip(run.batch, messages, strict=True)
    ]
    run.queue_latency = max((wait for wait in waits if wait is not None), default=None)
    first = messages[0][1]
    run.hostname = run.hostname or getattr(first, "hostname", None)
    routes = {_route(message) for _, message in messages}
    if len(routes) == 1:  # else there is no one queue
        run.exchange, run.routing_key = routes.pop()
        run.queue = queue_of(app, run.exchange, run.routing_key)


def _messages(args: object) -> Iterator[tuple[Mapping[str, Any], object]]:
    """Yield the fields of each message among the arguments, and what stands for the message."""
    for value in cast("list[object]", args) if isinstance(args, (list, tuple)) else ():
        items = cast("list[object]", value) if isinstance(value, (list, tuple)) else (value,)
        for item in items:
            with suppress(Exception):  # a task's own objects may do anything
                fields = getattr(item, "request_dict", None)
                if isinstance(fields, Mapping):
                    yield cast("Mapping[str, Any]", fields), item


def _route(message: object) -> tuple[str, str | None]:
    found = getattr(message, "delivery_info", None)
    route = cast("Mapping[str, Any]", found if isinstance(found, Mapping) else {})
    key = route.get("routing_key")
    return str(route.get("exchange") or ""), None if key is None else str(key)
