"""A task and its request as the record of a run."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from functools import partial
from typing import Any, Final, cast

from taskobs import semconv
from taskobs.celery._types import Context, Task
from taskobs.celery.adapter import brokers, stock_attributes
from taskobs.celery.adapter.chord_links import UNLOCK, chord_links_of
from taskobs.celery.adapter.dead_letters import add_deaths
from taskobs.celery.adapter.headers import queue_latency, texts_of
from taskobs.celery.adapter.names import MAPPED, attempt_of, name_of, text_of
from taskobs.celery.adapter.queues import queue_of
from taskobs.celery.adapter.schedules import ENTRY_CHARS
from taskobs.model import ContextValues, Run
from taskobs.observers.context import header as context_header

_NO_ROUTE: Final[Mapping[str, Any]] = {}


def run_of(task: Task, request: Context, args: Any, kwargs: Any, now: float) -> Run:
    """Make the record of a run that starts ``now``."""
    task_name = task.name  # a task may be a proxy, which looks it up each time: asked once
    run = Run(task=task_name, name=task_name, task_id=request.id)
    # One by one: a call with all of them as keywords takes four times as long.
    if task_name in MAPPED:
        run.name = name_of(task_name, kwargs)
    run.root_id = request.root_id
    run.parent_id = request.parent_id
    run.group_id = request.group
    run.attempt = attempt_of(request.retries) if request.retries else 1
    run.hostname = request.hostname
    run.origin = request.origin
    run.pid = os.getpid()
    run.began, run.ticks = now, time.monotonic()
    run.args = args or ()
    run.kwargs = kwargs or {}
    found = request.delivery_info
    route = cast("Mapping[str, Any]", found) if isinstance(found, Mapping) else _NO_ROUTE
    exchange, key = route.get("exchange"), route.get("routing_key")
    run.exchange = exchange if type(exchange) is str else text_of(exchange) or ""
    run.routing_key = key if type(key) is str else text_of(key)
    run.priority = route.get("priority")
    run.redelivered = bool(route.get("redelivered"))
    _add_message(run, task, request)
    run.stock = partial(stock_attributes.of_run, run.routing_key, request)
    return run


def context_of_message(request: Context) -> ContextValues | None:
    """Return the context values that a request's message carries."""
    text = texts_of(vars(request), request.headers).get(semconv.HEADER_CONTEXT)
    return None if text is None else context_header.read(text)


def _add_message(run: Run, task: Task, request: Context) -> None:
    """Add what the message's headers say, and what a run has that a broker has delivered."""
    fields = vars(request)  # the message's flat headers are among them
    run.headers = headers = texts_of(fields, request.headers)
    if request.eta is not None or request.expires is not None:
        run.eta, run.expires = text_of(request.eta), text_of(request.expires)
    entry = headers.get(semconv.HEADER_SCHEDULE)
    run.schedule_entry = entry[:ENTRY_CHARS] if entry else None
    if request.is_eager:
        run.eager = True
        return
    if semconv.HEADER_CONTEXT in headers:
        run.context = context_header.read(headers[semconv.HEADER_CONTEXT])
    run.queue_latency = queue_latency(headers, request.eta, run.began)
    # A worker's main process adds these where they are not what the message or the app says.
    broker, queue = headers.get(semconv.HEADER_BROKER), headers.get(semconv.HEADER_QUEUE)
    run.broker = brokers.from_text(broker) if broker else brokers.consumed_from(task.app)
    if queue is not None:
        run.queue = queue
    elif run.exchange:
        run.queue = queue_of(task.app, run.exchange, run.routing_key)
    else:  # the default exchange: the key is the queue's name, as nearly always
        run.queue = run.routing_key
    if "x-death" in fields or "x-delivery-count" in fields:
        add_deaths(run, fields)
    if request.group or run.task == UNLOCK:
        run.chord_links = chord_links_of(task, run.task, request)
