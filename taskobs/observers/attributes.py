"""What spans say of publishes, runs and exceptions."""

from __future__ import annotations

import os
import traceback
from collections.abc import Mapping, Sequence
from typing import Any, Final, cast

from opentelemetry.trace import Span, StatusCode
from opentelemetry.util.types import AttributeValue

from taskobs import names
from taskobs.facts import Publish, Run

MESSAGE_CHARS: Final = 4_096
_STACKTRACE_CHARS: Final = 32_768
_PLAIN: Final = frozenset({str, bool, int, float})

Attributes = dict[str, AttributeValue]


def of_publish(publish: Publish) -> Attributes:
    """Describe a publish of which only the task is known."""
    broker, schedule = publish.broker, publish.schedule
    return {
        names.MESSAGING_OPERATION_NAME: "publish",
        names.MESSAGING_OPERATION_TYPE: "send",
        names.CELERY_TASK_NAME: publish.task,
        names.PROCESS_PID: os.getpid(),
        **known(
            {
                names.MESSAGING_SYSTEM: broker.system,
                names.SERVER_ADDRESS: broker.address,
                names.SERVER_PORT: broker.port or None,
                names.CELERY_SCHEDULE_ENTRY: schedule.entry if schedule else None,
            }
        ),
    }


def of_message(publish: Publish, stock: Mapping[str, object]) -> Attributes:
    """Describe a publish once its message is routed."""
    rabbitmq = publish.broker.system == "rabbitmq"
    return known(
        {
            **stock,
            names.MESSAGING_MESSAGE_ID: publish.task_id,
            names.MESSAGING_DESTINATION_NAME: _destination(publish),
            names.MESSAGING_ROUTING_KEY: publish.routing_key if rabbitmq else None,
            names.CELERY_INNER_TASK: publish.name if publish.name != publish.task else None,
            names.CELERY_ROOT_ID: publish.root_id,
            names.CELERY_PARENT_ID: publish.parent_id,
            names.CELERY_GROUP_ID: publish.group_id,
            names.CELERY_ATTEMPT: publish.attempt,
            names.CELERY_ETA: publish.eta,
            names.CELERY_EXPIRES: publish.expires,
            names.CELERY_PRIORITY: publish.priority,
        }
    )


def of_run(run: Run, stock: Mapping[str, object]) -> Attributes:
    """Describe a run at its start."""
    return known(
        {
            **stock,
            names.MESSAGING_SYSTEM: run.broker.system,
            names.SERVER_ADDRESS: run.broker.address,
            names.SERVER_PORT: run.broker.port or None,
            names.MESSAGING_OPERATION_NAME: "run",
            names.MESSAGING_OPERATION_TYPE: "process",
            names.MESSAGING_MESSAGE_ID: run.task_id,
            names.MESSAGING_DESTINATION_NAME: _destination(run),
            names.CELERY_TASK_NAME: run.task,
            names.CELERY_INNER_TASK: run.name if run.name != run.task else None,
            names.CELERY_ROOT_ID: run.root_id,
            names.CELERY_PARENT_ID: run.parent_id,
            names.CELERY_GROUP_ID: run.group_id,
            names.CELERY_ATTEMPT: run.attempt,
            names.CELERY_SCHEDULE_ENTRY: run.schedule_entry,
            names.CELERY_QUEUE_LATENCY: run.queue_latency,
            names.CELERY_ETA: run.eta,
            names.CELERY_EXPIRES: run.expires,
            names.CELERY_PRIORITY: run.priority,
            names.CELERY_HOSTNAME: run.hostname,
            names.CELERY_ORIGIN: run.origin,
            names.CELERY_EAGER: run.eager or None,
            names.CELERY_REDELIVERED: run.redelivered or None,
            names.PROCESS_PID: run.pid or None,
        }
    )


def of_sampling(run: Run) -> Attributes:
    """Say of a run what a sampler may decide by, when it is not expected to be recorded."""
    return {
        names.MESSAGING_OPERATION_NAME: "run",
        names.MESSAGING_OPERATION_TYPE: "process",
        names.CELERY_TASK_NAME: run.task,
    }


def _destination(fact: Publish | Run) -> str | None:
    """Name the queue; of an exchange the conventions ask for ``exchange:routing_key``."""
    if fact.queue or not fact.exchange:
        return fact.queue
    return f"{fact.exchange}:{fact.routing_key}" if fact.routing_key else fact.exchange


def known(values: Mapping[str, Any]) -> Attributes:
    """Leave out what is not known; the rest in a form that a span takes."""
    return {
        key: value if type(value) in _PLAIN else _plain(value)
        for key, value in values.items()
        if value is not None and value != ""
    }


def _plain(value: object) -> AttributeValue:
    if isinstance(value, (str, bool, int, float)):
        return value
    if isinstance(value, (list, tuple)):
        return [str(item) for item in cast("Sequence[object]", value)]
    return str(value)


def record_error(span: Span, error: BaseException) -> None:
    """Mark a span as failed by an exception."""
    span.set_status(StatusCode.ERROR, message_of(error))
    span.set_attribute(names.ERROR_TYPE, type_of(error))
    record_exception(span, error)


def record_exception(span: Span, error: BaseException, text: str | None = None) -> None:
    """Add the ``exception`` event of the conventions, of bounded size.

    ``text`` is the traceback if it is written already: formatting is most of the cost.
    https://opentelemetry.io/docs/specs/semconv/exceptions/exceptions-spans/
    """
    if text is None:
        text = _traceback_of(error)
    span.add_event(
        "exception",
        {
            "exception.type": type_of(error),
            "exception.message": message_of(error) or "",
            "exception.stacktrace": encodable(text[-_STACKTRACE_CHARS:]),
        },
    )


def _traceback_of(error: BaseException) -> str:
    try:
        return "".join(traceback.format_exception(type(error), error, error.__traceback__))
    except Exception:  # noqa: BLE001  # a task's own __str__ or __cause__ may do anything
        return type_of(error)


def message_of(error: BaseException | None) -> str | None:
    """Return what an exception says, of bounded size, whatever its ``__str__`` does."""
    if error is None:
        return None
    try:
        return encodable(str(error)[:MESSAGE_CHARS])
    except Exception:  # noqa: BLE001  # a task's own __str__ may do anything
        return type(error).__name__


def type_of(error: BaseException) -> str:
    """Return the full name of an exception's class."""
    kind = type(error)
    return (
        kind.__qualname__
        if kind.__module__ == "builtins"
        else f"{kind.__module__}.{kind.__qualname__}"
    )


def encodable(text: str) -> str:
    """Replace lone surrogates, as in undecodable file names: one would cost a batch of spans."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()
