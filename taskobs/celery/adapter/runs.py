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
from taskobs.celery.adapter.routes import route_of
from taskobs.celery.adapter.schedules import ENTRY_CHARS
from taskobs.model import ContextValues, Run
from taskobs.observers.context import header as context_header

_NO_ROUTE: Final[Mapping[str, Any]] = {}
_new: Final = Run.__new__


def run_of(task: Task, request: Context, args: Any, kwargs: Any, now: float) -> Run:
    """Make the record of a run that starts ``now``."""
    # Without `__init__`, which sets each field, though nearly all have their defaults.
    run = _new(Run)
    # A task may be a proxy, which looks its name up each time: asked once.
    run.task = run.name = task_name = task.name
    run.task_id = request.id
    if task_name in MAPPED:
        run.name = name_of(task_name, kwargs)
    run.root_id = request.root_id
    run.parent_id = request.parent_id
    run.group_id = request.group
    if request.retries:
        run.attempt = attempt_of(request.retries)
    run.hostname = request.hostname
    run.origin = request.origin
    run.pid = os.getpid()
    run.began, run.ticks = now, time.monotonic()
    run.args = args or ()
    run.kwargs = kwargs or {}
    fields = vars(request)  # the message's flat headers are among them
    run.headers = headers = texts_of(fields, request.headers)
    eta, usual = request.eta, False
    if request.is_eager:
        run.eager = True
        _read_route(run, request)
    else:
        run.queue_latency = queue_latency(headers, eta, now)
        run.route = route = route_of(task, task_name, request.delivery_info, headers)
        if route is None:
            _read_route(run, request)
            _find_queue(run, task)
        else:
            run.exchange, run.routing_key = route.exchange, route.routing_key
            run.priority, run.redelivered = route.priority, route.redelivered
            run.queue, run.broker = route.queue, route.broker
            usual = True
            run.stock = partial(stock_attributes.of_message, request)
        if semconv.HEADER_CONTEXT in headers:
            run.context, usual = context_header.read(headers[semconv.HEADER_CONTEXT]), False
        if "x-death" in fields or "x-delivery-count" in fields:
            add_deaths(run, fields)
            usual = False
        if run.group_id or task_name == UNLOCK:
            run.chord_links, usual = chord_links_of(task, task_name, request), False
    expires = request.expires
    if eta is not None or expires is not None:
        run.eta, run.expires, usual = text_of(eta), text_of(expires), False
    if semconv.HEADER_SCHEDULE in headers:
        run.schedule_entry = headers[semconv.HEADER_SCHEDULE][:ENTRY_CHARS] or None
        usual = False
    run.usual = usual and run.parent_id is None and run.group_id is None
    return run


def _read_route(run: Run, request: Context) -> None:
    """Add how a message came that has little in common with others."""
    found = request.delivery_info
    route = cast("Mapping[str, Any]", found) if isinstance(found, Mapping) else _NO_ROUTE
    exchange, key = route.get("exchange"), route.get("routing_key")
    run.exchange = exchange if type(exchange) is str else text_of(exchange) or ""
    run.routing_key = key if type(key) is str else text_of(key)
    run.priority = route.get("priority")
    run.redelivered = bool(route.get("redelivered"))
    run.stock = partial(stock_attributes.of_run, run.routing_key, request)


def _find_queue(run: Run, task: Task) -> None:
    """Add where a broker had the message of a run."""
    # A worker's main process adds these where they are not what the message or the app says.
    broker, queue = run.headers.get(semconv.HEADER_BROKER), run.headers.get(semconv.HEADER_QUEUE)
    run.broker = brokers.from_text(broker) if broker else brokers.consumed_from(task.app)
    if queue is None:
        queue = queue_of(task.app, run.exchange or "", run.routing_key)
    run.queue = queue


def context_of_message(request: Context) -> ContextValues | None:
    """Return the context values that a request's message carries."""
    text = texts_of(vars(request), request.headers).get(semconv.HEADER_CONTEXT)
    return None if text is None else context_header.read(text)
