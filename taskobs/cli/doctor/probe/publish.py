"""Publishes the probe task from this process, as the app publishes its own."""

# Celery ships no types.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

import time
from collections.abc import Generator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from typing import Any, Final

from celery import signals
from celery.app.routes import Router
from celery.backends.base import DisabledBackend
from opentelemetry import trace

from taskobs.celery import _compat
from taskobs.celery.connect import connect
from taskobs.cli.doctor.asking.celery_servers import broker_connection, in_words, is_rpc
from taskobs.cli.doctor.asking.waiting import LATE, within_time
from taskobs.cli.doctor.checks.probe import CARRIED
from taskobs.cli.doctor.evidence import Probe
from taskobs.cli.doctor.probe.message import TASK, Order, private_queue

_UID: Final = "taskobs.doctor.published"
_EXPIRES: Final = 120.0
_STORED_WITHIN: Final = 6.0
_TICK: Final = 0.05


def publish(app: Any, order: Order, parent: trace.SpanContext | None, found: Probe) -> None:  # noqa: ANN401  # Celery's app
    """Publish it below a span, to the private queue; note why, if that fails.

    The app's routes are not asked: they might send it elsewhere.
    """
    app.conf.task_send_sent_event = False  # an exchange for events would be left behind
    queue = app.amqp.queues[order.queue] = private_queue(order.queue)
    with _noting(found), _below(parent):
        try:
            app.send_task(
                TASK,
                kwargs={"folder": order.folder},
                task_id=order.task_id,
                queue=queue,
                exchange="",
                routing_key=order.queue,
                router=Router(routes=(), queues=app.amqp.queues, app=app),
                expires=_EXPIRES,
                ignore_result=not has_results(app),
                retry=False,
            )
        except Exception as error:  # noqa: BLE001  # whatever a transport or a serializer raises
            found.publish_error = in_words(error)


def _below(parent: trace.SpanContext | None) -> AbstractContextManager[object]:
    return nullcontext() if parent is None else trace.use_span(trace.NonRecordingSpan(parent))


@contextmanager
def _noting(found: Probe) -> Generator[None]:
    """Note the headers of the message that is published."""

    def published(*, headers: Mapping[str, Any] | None = None, **_: object) -> None:
        given = {name: (headers or {}).get(name) for name in CARRIED}
        found.sent_headers = {name: str(value) for name, value in given.items() if value}

    connect(signals.after_task_publish, published, _UID)
    try:
        yield
    finally:
        signals.after_task_publish.disconnect(dispatch_uid=_UID)


def has_results(app: Any) -> bool:  # noqa: ANN401  # Celery's app
    """Tell whether there is a result backend that keeps a result until it is deleted."""
    backend = app.backend
    # That of the broker itself would make a queue for replies, which nobody deletes.
    return not isinstance(backend, DisabledBackend) and not is_rpc(backend)


def is_stored(app: Any, order: Order) -> bool:  # noqa: ANN401  # Celery's app
    """Wait until the result of the probe task is in the result backend; False if it never is."""
    result = app.AsyncResult(order.task_id)

    def look() -> bool:
        end = time.monotonic() + _STORED_WITHIN
        while time.monotonic() < end:
            with suppress(Exception):  # whatever the backend's library raises
                if result.ready():
                    return True
            time.sleep(_TICK)
        return False

    return within_time(look, otherwise=False)


def forget(app: Any, order: Order) -> None:  # noqa: ANN401  # Celery's app
    """Delete the result of the probe task, if it has one."""

    def delete() -> None:
        with suppress(Exception):  # a backend that can't forget, or does not respond
            app.AsyncResult(order.task_id).forget()

    if has_results(app):
        within_time(delete, None)


def delete_queue(app: Any, queue: str) -> str | None:  # noqa: ANN401  # Celery's app
    """Delete the private queue and what is in it; return why that failed, or None."""
    # No Ctrl-C ends it, so it has a bound: not all transports have one of their own.
    otherwise: str | None = LATE
    return within_time(lambda: _delete_queue(app, queue), otherwise)


def _delete_queue(app: Any, queue: str) -> str | None:  # noqa: ANN401  # Celery's app
    try:
        with broker_connection(app) as connection:
            channel = connection.channel()
            bound = private_queue(queue)(channel)
            with suppress(*connection.channel_errors):
                bound.purge()  # Redis and others keep the messages of a queue without a binding
                bound.delete()
                _compat.delete_queue(channel, queue)
    except Exception as error:  # noqa: BLE001  # transports raise whatever their library does
        return in_words(error)
    return None
