"""The attributes of publishes and runs, and the event of an exception."""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Final, TypeAlias, cast

from taskobs import semconv

if TYPE_CHECKING:  # `celery call` describes its publish without OpenTelemetry
    from opentelemetry.trace import Span
    from opentelemetry.util.types import AttributeValue

    from taskobs.model import Broker, Publish, Run, TaskMessage
    from taskobs.model.attributes import Parts, SharedAttributes

MESSAGE_CHARS: Final = 4_096
_STACKTRACE_CHARS: Final = 32_768
_PLAIN: Final = frozenset({str, bool, int, float})

Attributes: TypeAlias = "dict[str, AttributeValue]"
SetUnchecked: TypeAlias = "Callable[[Span, Attributes], bool]"
"""Sets attributes that need no check; returns False, and has done nothing, where it can't.

The SDK checks and copies each attribute, which takes longer than all else about a span; it has no
public way to leave that out.
"""

# Fields that nearly no message has: they are read in one call.
_RARE: Final = {
    semconv.CELERY_PARENT_ID: "parent_id",
    semconv.CELERY_GROUP_ID: "group_id",
    semconv.CELERY_ETA: "eta",
    semconv.CELERY_EXPIRES: "expires",
}
_rare: Final = attrgetter(*_RARE.values())
_NONE_OF_THEM: Final = (None,) * len(_RARE)


def of_publish(publish: Publish) -> Attributes:
    """Describe a publish of which only the task is known."""
    found: Attributes = {
        semconv.MESSAGING_OPERATION_NAME: "publish",
        semconv.MESSAGING_OPERATION_TYPE: "send",
        semconv.CELERY_TASK_NAME: publish.task,
        semconv.PROCESS_PID: os.getpid(),
    }
    _add_broker(found, publish.broker)
    if publish.schedule is not None:
        found[semconv.CELERY_SCHEDULE_ENTRY] = publish.schedule.entry
    if publish.context:
        found.update(publish.context)
    return found


def of_message(publish: Publish, *, stock: bool) -> Attributes:
    """Describe a publish once its message is routed."""
    found = _of_task_message(publish, stock=stock)
    _add_rare(found, publish)
    _add_destination(found, publish)
    if publish.routing_key and publish.broker.system == "rabbitmq":
        found[semconv.MESSAGING_ROUTING_KEY] = publish.routing_key
    return found if _PLAIN.issuperset(map(type, found.values())) else plain(found)


def of_run(run: Run, stock: bool) -> Attributes | Parts:  # noqa: FBT001  # a partial with a keyword takes twice as long
    """Describe a run at its start, apart from what it shares with others, if it can be."""
    found = _of_task_message(run, stock=stock)
    if run.origin:
        found[semconv.CELERY_ORIGIN] = run.origin
    if run.queue_latency is not None:
        found[semconv.CELERY_QUEUE_LATENCY] = run.queue_latency
    if not run.usual:
        _add_unusual(found, run)
    if not _PLAIN.issuperset(map(type, found.values())):
        found = plain(found)
    route = run.route
    common = cast("_Common | None", None if route is None else route.described)
    if common is None or common[0] != (stock, run.hostname, run.pid):
        common = _in_common(run, stock=stock)
    shared = common[1]
    if isinstance(shared, dict):
        found.update(shared)
        return found
    if not run.usual and run.context:  # which the app has given keys
        return {**found, **shared.attributes}
    return shared, found


def _add_unusual(found: dict[str, Any], run: Run) -> None:
    """Describe what a run that is ``usual`` has not."""
    _add_rare(found, run)
    if run.schedule_entry:
        found[semconv.CELERY_SCHEDULE_ENTRY] = run.schedule_entry
    if run.delivery_count is not None or run.dead_letter is not None:
        found.update(_of_deaths(run))
    if run.batch or run.context:
        found.update(_of_messages(run))


_Common: TypeAlias = "tuple[tuple[bool, str | None, int], SharedAttributes | Attributes]"


def _in_common(run: Run, *, stock: bool) -> _Common:
    """Describe what a run has in common with all that came the same way, kept with the route."""
    route = run.route
    found: dict[str, Any] = {**route.stock} if stock and route is not None else {}
    found.update(of_sampling(run))
    _add_destination(found, run)
    if run.eager:
        found[semconv.CELERY_EAGER] = True
    if run.redelivered:
        found[semconv.CELERY_REDELIVERED] = True
    if run.pid:
        found[semconv.PROCESS_PID] = run.pid
    if run.hostname:
        found[semconv.CELERY_HOSTNAME] = run.hostname
    _add_broker(found, run.broker)
    attributes = plain(found)
    for_whom = stock, run.hostname, run.pid
    if route is None:
        return for_whom, attributes
    common: _Common = for_whom, _shared(attributes) or attributes
    route.described = common
    return common


def _shared(attributes: Attributes) -> SharedAttributes | None:
    """Return attributes as many spans can share them; None for what can't be packed."""
    # Here, as a command's publish is sent without these.
    from taskobs.model.attributes import SharedAttributes
    from taskobs.protocol.frames import pack
    from taskobs.protocol.sanitize import UNEXPECTED

    try:
        shared = SharedAttributes(pack(attributes))
    except UNEXPECTED:
        return None
    shared.attributes = attributes
    return shared


def _of_messages(run: Run) -> Attributes:
    found: Attributes = {**(run.context or {})}
    if run.batch:
        found[semconv.MESSAGING_BATCH_COUNT] = len(run.batch)
    return found


def _of_deaths(run: Run) -> Attributes:
    found: Attributes = {}
    if run.delivery_count is not None:
        found[semconv.CELERY_DELIVERY_COUNT] = run.delivery_count
    if run.dead_letter is not None:
        queue, reason, times = run.dead_letter
        found[semconv.CELERY_DEAD_LETTER_QUEUE] = queue
        found[semconv.CELERY_DEAD_LETTER_REASON] = reason
        found[semconv.CELERY_DEAD_LETTER_COUNT] = times
    return found


def _of_task_message(record: TaskMessage, *, stock: bool) -> dict[str, Any]:
    """Describe what no other message has."""
    found: dict[str, Any] = record.stock() if stock else {}
    found[semconv.CELERY_ATTEMPT] = record.attempt
    if record.task_id:
        found[semconv.MESSAGING_MESSAGE_ID] = found[semconv.CELERY_TASK_ID] = record.task_id
    if record.root_id:
        found[semconv.CELERY_ROOT_ID] = record.root_id
    return found


def _add_rare(found: dict[str, Any], record: TaskMessage) -> None:
    rare = _rare(record)
    if rare != _NONE_OF_THEM:
        found.update(zip(_RARE, rare, strict=True))


def _add_destination(found: dict[str, Any], record: TaskMessage) -> None:
    queue = record.queue
    if queue:
        found[semconv.MESSAGING_DESTINATION_NAME] = found[semconv.CELERY_QUEUE] = queue
    if record.exchange:
        found[semconv.CELERY_EXCHANGE] = record.exchange
        if record.routing_key:
            found[semconv.CELERY_ROUTING_KEY] = record.routing_key
    if record.name != record.task:
        found[semconv.CELERY_INNER_TASK] = record.name
    if record.priority is not None:
        found[semconv.CELERY_PRIORITY] = record.priority


def of_broker(broker: Broker) -> Attributes:
    """Describe the broker that a message was really sent to."""
    found: Attributes = {}
    _add_broker(found, broker)
    return found


def _add_broker(found: dict[str, Any], broker: Broker) -> None:
    if broker.system:
        found[semconv.MESSAGING_SYSTEM] = broker.system
    if broker.address:
        found[semconv.SERVER_ADDRESS] = broker.address
    if broker.port:
        found[semconv.SERVER_PORT] = broker.port


def of_sampling(run: Run) -> Attributes:
    """Return what a sampler may decide by, for a run that will hardly be recorded."""
    return {
        semconv.MESSAGING_OPERATION_NAME: "run",
        semconv.MESSAGING_OPERATION_TYPE: "process",
        semconv.CELERY_TASK_NAME: run.task,
    }


def plain(found: dict[str, Any]) -> Attributes:
    """Return attributes in a form that a span takes, without those that have no value."""
    return {
        key: value if type(value) in _PLAIN else _plain(value)
        for key, value in found.items()
        if value is not None and value != ""
    }


def _plain(value: object) -> AttributeValue:
    if isinstance(value, (str, bool, int, float)):
        return value
    if isinstance(value, (list, tuple)):
        items = cast("Sequence[Any]", value)
        # A span takes a sequence of one type.
        kept = items and type(items[0]) in _PLAIN and len(set(map(type, items))) == 1
        return tuple(items) if kept else tuple(map(_text_of, items))
    return _text_of(value)


def _text_of(value: object) -> str:
    try:
        return str(value)
    except Exception:  # noqa: BLE001  # with pickle, a message may have any object
        return type(value).__name__


def never(span: Span, attributes: Attributes) -> bool:  # noqa: ARG001  # as ``SetUnchecked``
    """Set nothing."""
    return False


def add(span: Span, attributes: Attributes, set_unchecked: SetUnchecked = never) -> None:
    """Set attributes that are plain already, as all of this module are."""
    if not set_unchecked(span, attributes):
        span.set_attributes(attributes)


def record_error(span: Span, error: BaseException) -> None:
    """Mark a span as failed by an exception."""
    from opentelemetry.trace import StatusCode

    span.set_status(StatusCode.ERROR, message_of(error))
    span.set_attribute(semconv.ERROR_TYPE, type_of(error))
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
    """Return the message of an exception, of bounded size, whatever its ``__str__`` does."""
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
