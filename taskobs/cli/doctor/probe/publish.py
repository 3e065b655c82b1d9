"""Publishes the probe task from this process, as the app publishes its own."""

# Celery ships no types.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

import logging
import time
from collections.abc import Generator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from typing import Any, Final

from celery import signals
from celery.app.routes import Router
from celery.backends.base import DisabledBackend
from opentelemetry import trace

from taskobs.celery.connect import connect
from taskobs.cli.doctor.asking.celery_servers import broker_connection, in_words, is_rpc
from taskobs.cli.doctor.asking.waiting import within_time
from taskobs.cli.doctor.checks.probe import CARRIED
from taskobs.cli.doctor.evidence import Probe
from taskobs.cli.doctor.probe.message import TASK, private_queue

_UID: Final = "taskobs.doctor.published"
_EXPIRES: Final = 120.0
_STORED_WITHIN: Final = 3.0
_TICK: Final = 0.05
_log: Final = logging.getLogger("taskobs")


def publish(
    app: Any,  # noqa: ANN401  # Celery's
    queue: str,
    folder: str,
    parent: trace.SpanContext | None,
    found: Probe,
) -> Any:  # noqa: ANN401  # Celery's result
    """Publish it below a span, to the private queue; return its result, None if that failed.

    The app's routes are not asked: they might send it elsewhere.
    """
    app.conf.task_send_sent_event = False  # an exchange for events would be left behind
    app.amqp.queues[queue] = private_queue(queue)
    router = Router(routes=(), queues=app.amqp.queues, app=app)
    with _noting(found), _below(parent):
        try:
            return app.send_task(
                TASK,
                kwargs={"folder": folder},
                queue=app.amqp.queues[queue],
                exchange="",
                routing_key=queue,
                router=router,
                expires=_EXPIRES,
                ignore_result=not has_results(app),
                retry=False,
            )
        except Exception as error:  # noqa: BLE001  # whatever a transport or a serializer raises
            found.publish_error = in_words(error)
    return None


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


def is_stored(result: Any) -> bool:  # noqa: ANN401  # Celery's result
    """Wait until the result of the probe task is in the result backend; False if it never is."""

    def look() -> bool:
        end = time.monotonic() + _STORED_WITHIN
        while time.monotonic() < end:
            with suppress(Exception):  # whatever the backend's library raises
                if result.ready():
                    return True
            time.sleep(_TICK)
        return False

    return within_time(look, otherwise=False)


def forget(result: Any) -> None:  # noqa: ANN401  # Celery's result
    """Delete the result of the probe task, if it has one."""
    with suppress(Exception):  # a backend that can't forget, or does not respond
        result.forget()


def delete_queue(app: Any, queue: str) -> str | None:  # noqa: ANN401  # Celery's app
    """Delete the private queue and what is in it; return why that failed, or None."""
    try:
        with broker_connection(app) as connection:
            channel = connection.channel()
            bound = private_queue(queue)(channel)
            with suppress(*connection.channel_errors):
                bound.purge()  # Redis and others keep the messages of a queue without a binding
                bound.delete()
    except Exception as error:  # noqa: BLE001  # transports raise whatever their library does
        return in_words(error)
    return None


class LogLines(logging.Handler):
    """Collects the warnings of taskobs in this process; nothing else prints them meanwhile."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a line."""
        self.lines.append(record.getMessage())

    def __enter__(self) -> list[str]:
        _log.addHandler(self)
        return self.lines

    def __exit__(self, *_: object) -> None:
        _log.removeHandler(self)
