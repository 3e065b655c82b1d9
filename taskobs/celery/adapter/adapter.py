"""Celery's task, request and message objects turned into facts: the only reader of them."""

# What Celery hands out has no types worth the name.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportAttributeAccessIssue=false

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta, timezone
from functools import partial
from typing import Any, Final
from urllib.parse import urlsplit
from weakref import ref

from billiard import common, current_process
from billiard.einfo import ExceptionWithTraceback  # type: ignore[attr-defined]
from billiard.exceptions import SoftTimeLimitExceeded
from celery.exceptions import Ignore, Reject, Retry
from celery.utils.time import maybe_iso8601

from taskobs import semconv
from taskobs.celery.adapter import stock_attributes
from taskobs.celery.adapter.chord_links import UNLOCK, chord_links_of
from taskobs.model import NOWHERE, Broker, ExternalOutcome, Outcome, Publish, Run, Schedule

# No propagator's header is longer: W3C Baggage allows 8192 bytes, trace context far less.
_HEADER_CHARS: Final = 8192
# As many links as a span can hold are longer: 128 of a chord's header, 69 characters each.
_LONGER: Final = {semconv.HEADER_LINKS: 16_384}
_MOST_RETRIES: Final = 2**31
_MAPPED: Final = frozenset({"celery.map", "celery.starmap"})
_CRONTAB: Final = ("minute", "hour", "day_of_month", "month_of_year", "day_of_week")
_PLAIN_CRON: Final = re.compile(r"\*(?:/[0-9]+)?|[0-9]+|([0-9]+)-([0-9]+)(?:/[0-9]+)?")
_ENTRY_CHARS: Final = 200
_RABBITMQ: Final = frozenset({"amqp", "amqps", "py-amqp", "pyamqp"})
_STATES: Final = {
    "FAILURE": Outcome.FAILED,
    "RETRY": Outcome.RETRIED,
    "REJECTED": Outcome.REJECTED,
    "IGNORED": Outcome.IGNORED,
}
_brokers: dict[int, tuple[ref[Any], Broker]] = {}

PASSING: Final = (SoftTimeLimitExceeded,)
"""What no guard may swallow: it is meant for the task."""


def publish_of(app: Any, task: str, options: Mapping[str, Any], within: Run | None) -> Publish:
    """Make the record of a publish from the arguments of ``send_task``."""
    again = (
        within is not None
        and options.get("task_id") == within.task_id
        and _attempt(options.get("retries")) == within.attempt + 1
    )
    return Publish(
        task=task,
        name=task,
        within=within,
        retries=within if again else None,
        broker=_broker(app),
    )


def complete(publish: Publish, message: Mapping[str, Any]) -> None:
    """Add what is known once Celery has routed the message: what ``before_task_publish`` tells."""
    headers, body, exchange = message["headers"], message["body"], message["exchange"]
    # Protocol 1 has everything in the body and no headers of its own.
    task = headers if "id" in headers else body
    kwargs = body[1] if isinstance(body, tuple) else body.get("kwargs")
    publish.name = _name(publish.task, kwargs)
    publish.task_id = task.get("id") or ""
    publish.root_id = task.get("root_id")
    publish.parent_id = task.get("parent_id")
    publish.group_id = task.get("group")
    retries = task.get("retries")
    publish.attempt = _attempt(retries) if retries else 1
    publish.exchange = getattr(exchange, "name", exchange) or ""
    publish.routing_key = message["routing_key"]
    direct = None if publish.exchange else publish.routing_key
    publish.queue = _declared(message["declare"]) or direct
    publish.eta = _text(task.get("eta"))
    publish.expires = _text(task.get("expires"))
    publish.priority = message["properties"].get("priority")
    publish.headers = headers
    _note_schedule(publish)
    chord_links = publish.within.chord_links if publish.within else None
    publish.header_runs = (
        chord_links if chord_links and chord_links.belongs_to(publish.task_id) else None
    )
    publish.stock = partial(
        stock_attributes.of_publish, publish.exchange, publish.routing_key, message["declare"]
    )


def run_of(task: Any, request: Any, args: Any, kwargs: Any, now: float) -> Run:
    """Make the record of a run that starts ``now`` from the task and its request."""
    route = request.delivery_info or {}
    exchange, routing_key = route.get("exchange") or "", route.get("routing_key")
    task_name, eager = task.name, bool(request.is_eager)  # a task may be a proxy: asked once
    header = _reader(request.__dict__, _mapping(request.headers))
    # One by one: a call with all of them as keywords takes four times as long.
    run = Run(task=task_name, name=_name(task_name, kwargs), task_id=request.id)
    run.root_id = request.root_id
    run.parent_id = request.parent_id
    run.group_id = request.group
    run.attempt = _attempt(request.retries) if request.retries else 1
    run.queue = None if exchange else routing_key
    run.exchange = exchange
    run.routing_key = routing_key
    if request.eta is not None or request.expires is not None:
        run.eta, run.expires = _text(request.eta), _text(request.expires)
    run.priority = route.get("priority")
    run.redelivered = bool(route.get("redelivered"))
    run.eager = eager
    run.hostname = request.hostname
    run.origin = request.origin
    run.broker = NOWHERE if eager else _broker(task.app)
    run.schedule_entry = _short(header(semconv.HEADER_SCHEDULE))
    run.queue_latency = None if eager else _queue_latency(header, request.eta, now)
    run.header = header
    run.pid = os.getpid()
    run.began = now
    run.args = args or ()
    run.kwargs = kwargs or {}
    if not eager and (request.group or task_name == UNLOCK):
        run.chord_links = chord_links_of(task, task_name, request)
    run.stock = partial(stock_attributes.of_run, routing_key, request)
    return run


def failure(task: Any, run: Run, error: BaseException) -> None:
    """Note that an exception ended the run, and what that makes its outcome."""
    if isinstance(error, ExceptionWithTraceback):
        error = error.exc
    if isinstance(error, Retry):
        run.outcome = Outcome.RETRIED
        run.exception = error.exc if isinstance(error.exc, BaseException) else None
        run.reason = _said(error)
    elif isinstance(error, Reject):
        run.outcome = Outcome.REJECTED
        run.requeued = bool(error.requeue)  # type: ignore[attr-defined]
        run.reason = _reason(error)
    elif isinstance(error, Ignore):
        run.outcome = Outcome.IGNORED
        run.reason = _reason(error)
    else:
        run.outcome, run.exception = Outcome.FAILED, error
        run.expected = isinstance(error, getattr(task, "throws", None) or ())


def process_death(run: Run, error: BaseException) -> bool:
    """Note that what ends the run ends its process, greenlet or thread too.

    Returns whether it is a failure that is for this process to tell.
    """
    if run.eager:
        return False
    if type(error).__name__ == "GreenletExit":  # how greenlet pools carry out a revoke
        run.outcome, run.exception, run.reason = Outcome.REVOKED, None, "terminated"
        return False
    run.outcome = Outcome.LOST
    # A child of the prefork pool that ends is not to be relied on any more; its parent knows all.
    run.abandoned = current_process().name != "MainProcess" and _ends_child(error)
    return not run.abandoned


def _ends_child(error: BaseException) -> bool:
    """Tell whether what is no Exception ends the pool child whose task lets it out.

    Before billiard 4.3 all of it does; 4.3.0 is taken for such a one.
    """
    terminated = getattr(common, "terminate_handler_fired", None)
    if terminated is None or isinstance(error, (SystemExit, KeyboardInterrupt)):
        return True
    return bool(terminated())


def apply_external_outcome(run: Run, external: ExternalOutcome) -> None:
    """Add the end of a run that could not tell it."""
    run.outcome, run.exception = external.outcome, external.error
    run.started, run.pid = external.started, external.pid or run.pid
    run.ran = external.started is not None and external.outcome is not Outcome.UNKNOWN
    run.signal, run.exit_code, run.reason = external.signal, external.exit_code, external.reason


def conclude(task: Any, run: Run, state: str | None, result: Any) -> None:
    """Note the end of a run that Celery has told of by no other signal than the last.

    Of ``Reject`` and ``Ignore`` it gives the exception as the run's result.
    """
    if state == "SUCCESS":  # as nearly always
        run.outcome = Outcome.SUCCEEDED
        return
    outcome = _STATES.get(state or "", Outcome.FAILED)
    if outcome in (Outcome.REJECTED, Outcome.IGNORED) and isinstance(result, BaseException):
        failure(task, run, result)
    else:
        run.outcome = outcome


def schedule_of(entry: Any) -> Schedule:
    """Make the record of a schedule's entry, of whichever scheduler."""
    due = entry.schedule
    interval = getattr(due, "run_every", None)
    zone = getattr(due, "tz", None)
    # Names come from people and databases: one that can't be encoded must not stop a publish.
    name = str(entry.name).encode(errors="replace").decode()
    return Schedule(
        entry=name[:_ENTRY_CHARS],
        crontab=_crontab(due),
        seconds=interval.total_seconds() if isinstance(interval, timedelta) else None,
        timezone=getattr(zone, "key", None) or ("UTC" if zone is timezone.utc else None),
    )


def _crontab(due: Any) -> str | None:
    fields = [getattr(due, f"_orig_{name}", None) for name in _CRONTAB]
    if any(field is None for field in fields):
        return None
    values = [getattr(due, name) for name in _CRONTAB]
    return " ".join(map(_cron_field, fields, values))


def _cron_field(written: Any, values: Any) -> str:
    """Return a field as it was written, or, where cron may read it otherwise, all its values.

    Celery also takes names of days and months in full, ranges that wrap around, and collections.
    """
    text = "".join(str(written).split())
    if all(map(_is_plain_cron, text.split(","))):
        return text
    return ",".join(map(str, sorted(values)))


def _is_plain_cron(part: str) -> bool:
    found = _PLAIN_CRON.fullmatch(part)
    return found is not None and (found[1] is None or int(found[1]) < int(found[2]))


def _attempt(retries: Any) -> int:
    """Number the attempt; ``retries`` come with the message, so they may be anything."""
    return retries + 1 if type(retries) is int and 0 <= retries < _MOST_RETRIES else 1


def _note_schedule(publish: Publish) -> None:
    """Say in the message which entry it is for; what a task hands on of its own is dropped."""
    again = publish.retries.schedule_entry if publish.retries else None
    entry = publish.schedule.entry if publish.schedule else again
    if entry is not None:
        publish.headers[semconv.HEADER_SCHEDULE] = entry
    else:
        publish.headers.pop(semconv.HEADER_SCHEDULE, None)


def _short(text: str | None) -> str | None:
    return text[:_ENTRY_CHARS] if text else None


def _reason(error: BaseException) -> str | None:
    return _said(error.args[0]) if error.args and error.args[0] is not None else None


def _said(value: object) -> str:
    """Return what a task says, or of what type it is if it can't say."""
    try:
        return str(value)
    except Exception:  # noqa: BLE001  # a task's own __str__ may do anything
        return type(value).__name__


def _name(task: str, kwargs: Any) -> str:
    """Name the inner task of a map, as it says more than ``celery.map``."""
    if task in _MAPPED and isinstance(kwargs, Mapping):
        inner = kwargs.get("task")
        name = inner.get("task") if isinstance(inner, Mapping) else None
        return name if isinstance(name, str) else task
    return task


def _declared(declare: Any) -> str | None:
    return next((queue.name for queue in declare or () if getattr(queue, "name", None)), None)


def _text(value: Any) -> str | None:
    return None if value is None else str(value)


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, (dict, Mapping)) else {}


def _reader(flat: Mapping[str, Any], nested: Mapping[str, Any]) -> Callable[[str], str | None]:
    """Give what reads one header: flat ones are attributes of the request, whatever is nested."""

    def header(name: str) -> str | None:
        value = flat.get(name)
        if value is None:
            value = nested.get(name)
            if value is None:
                return None
        if not isinstance(value, str):
            return None
        if len(value) > _HEADER_CHARS and len(value) > _LONGER.get(name, 0):
            return None
        # Lone surrogates are not printable: propagators, which encode them, raise.
        return value if value.isascii() or value.isprintable() else None

    return header


def _queue_latency(header: Callable[[str], str | None], eta: Any, now: float) -> float | None:
    """Seconds from the publish, or the ETA if later; clocks differ, so never below 0."""
    text = header(semconv.HEADER_PUBLISHED_AT)
    if text is None:
        return None
    try:
        published = float(text)
        if not 0 < published < math.inf:
            return None
        return max(0.0, now - max(published, _epoch(eta)))
    except (ValueError, TypeError, OverflowError):
        return None


def _epoch(eta: Any) -> float:
    moment: datetime | None = maybe_iso8601(eta)
    if moment is None:
        return -math.inf
    return (moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)).timestamp()


def _broker(app: Any) -> Broker:
    """Return where an app publishes; no connection is made, and it is looked up once."""
    found = _brokers.get(id(app))
    known = found[1] if found is not None and found[0]() is app else None
    if known is None:
        with app.connection_for_write() as connection:
            system = connection.transport.driver_type or ""
            known = Broker(
                system="rabbitmq" if system in _RABBITMQ else system,
                address=_host(connection.hostname or ""),
                port=int(connection.port or connection.transport.default_port or 0),
            )
        _brokers[id(app)] = ref(app, partial(_forget_broker, id(app))), known
    return known


def _forget_broker(number: int, dead: object) -> None:
    found = _brokers.get(number)
    if found is not None and found[0] is dead:
        del _brokers[number]


def _host(address: str) -> str:
    """Leave of a URL the host: transports like ``sqla+postgresql`` give all of it, password too."""
    return urlsplit(address).hostname or "" if "://" in address else address
