"""The arguments and the message of a publish as its record."""

from __future__ import annotations

import time
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Final, cast

from taskobs import semconv
from taskobs.celery.adapter import brokers, stock_attributes
from taskobs.celery.adapter.names import MAPPED, attempt_of, name_of, text_of
from taskobs.celery.adapter.queues import queue_of
from taskobs.model.messages import Publish

if TYPE_CHECKING:  # a command that publishes has no use for the record of a run
    from taskobs.celery._types import App, Routed
    from taskobs.model import Run

_RABBITMQ: Final = "rabbitmq"
_new: Final = Publish.__new__


def publish_of(app: App, task: str, options: Mapping[str, Any], within: Run | None) -> Publish:
    """Make the record of a publish from the arguments of ``send_task``."""
    again = (
        within is not None
        and options.get("task_id") == within.task_id
        and attempt_of(options.get("retries")) == within.attempt + 1
    )
    # Without `__init__`, which sets each field, though nearly all have their defaults.
    publish = _new(Publish)
    publish.task = publish.name = task
    publish.within = within
    if again:
        publish.retries = within
    publish.broker = brokers.published_to(app)
    publish.headers = given_headers(options)
    return publish


def given_headers(options: Mapping[str, Any]) -> dict[str, object]:
    """Return a copy of the headers among the arguments of a publish."""
    given = options.get("headers")
    if not given or not isinstance(given, Mapping):
        return {}
    return {**cast("Mapping[str, object]", given)}


def complete(publish: Publish, app: App, message: Routed) -> None:
    """Add what is known once Celery has routed the message: what ``before_task_publish`` tells."""
    headers, exchange = message["headers"], message["exchange"]
    body: Any = message["body"]
    # Protocol 1 has everything in the body and no headers of its own.
    task = headers if "id" in headers else body
    kwargs = body[1] if isinstance(message["body"], tuple) else body.get("kwargs")
    if publish.task in MAPPED:
        publish.name = name_of(publish.task, kwargs)
    publish.task_id = task.get("id") or ""
    publish.root_id = task.get("root_id")
    publish.parent_id = task.get("parent_id")
    publish.group_id = task.get("group")
    retries = task.get("retries")
    if retries:
        publish.attempt = attempt_of(retries)
    named = publish.exchange = str(getattr(exchange, "name", exchange) or "")
    publish.routing_key = message["routing_key"]
    publish.queue = queue_of(app, named, publish.routing_key, message["declare"])
    eta, expires = task.get("eta"), task.get("expires")
    if eta is not None or expires is not None:
        publish.eta, publish.expires = text_of(eta), text_of(expires)
    properties = message["properties"]
    publish.priority = properties.get("priority")
    if publish.broker.system == _RABBITMQ:
        # RabbitMQ tells the one of the oldest message in a queue: see taskobs.celery.queues.
        # py-amqp refuses the property unless it is a whole number (seen in 5.3).
        properties.setdefault("timestamp", int(time.time()))
    publish.headers = headers
    if publish.schedule is not None or publish.retries is not None:
        _note_schedule(publish)
    else:
        headers.pop(semconv.HEADER_SCHEDULE, None)  # of the run that hands its headers on
    if publish.context or semconv.HEADER_CONTEXT in headers:
        from taskobs.observers.context import header as context_header  # few publishes have any

        context_header.write(headers, publish.context)
    chord_links = publish.within.chord_links if publish.within else None
    publish.header_runs = (
        chord_links if chord_links and chord_links.belongs_to(publish.task_id) else None
    )
    publish.stock = partial(stock_attributes.of_publish, publish.routing_key, message["declare"])


def _note_schedule(publish: Publish) -> None:
    """Say in the message which entry it is for; what a task hands on of its own is dropped."""
    again = publish.retries.schedule_entry if publish.retries else None
    entry = publish.schedule.entry if publish.schedule else again
    if entry is not None:
        publish.headers[semconv.HEADER_SCHEDULE] = entry
    else:
        publish.headers.pop(semconv.HEADER_SCHEDULE, None)
