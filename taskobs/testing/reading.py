"""Makes the records that tests read of what was received: spans, envelopes, log records."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final, cast

from taskobs import semconv
from taskobs.testing.records import Event, Log, OutcomeName, Raised, TaskPublish, TaskRun
from taskobs.testing.wire import ReceivedEvent, ReceivedLog, ReceivedMoment, ReceivedSpan

_EXCEPTION: Final = "exception"
_NANOSECONDS: Final = 1e9
_IGNORED: Final = frozenset({"celery.ping"})
"""What ``celery.contrib.testing`` sends to see whether its worker runs."""


def is_ignored(span: ReceivedSpan) -> bool:
    """Tell whether a span is of a task that no test has asked for."""
    return span.attributes.get(semconv.CELERY_TASK_NAME) in _IGNORED


def runs_of(spans: Iterable[ReceivedSpan]) -> tuple[TaskRun, ...]:
    """Return the runs among spans."""
    return tuple(_run(span) for span in spans if _is(span, "run"))


def publishes_of(spans: Iterable[ReceivedSpan]) -> tuple[TaskPublish, ...]:
    """Return the publishes among spans."""
    return tuple(_publish(span) for span in spans if _is(span, "publish"))


def _is(span: ReceivedSpan, operation: str) -> bool:
    found = span.attributes
    of_task = semconv.CELERY_TASK_NAME in found
    return of_task and found.get(semconv.MESSAGING_OPERATION_NAME) == operation


def _run(span: ReceivedSpan) -> TaskRun:
    found = span.attributes
    return TaskRun(
        task=str(found[semconv.CELERY_TASK_NAME]),
        inner_task=_text(found, semconv.CELERY_INNER_TASK),
        task_id=str(found.get(semconv.CELERY_TASK_ID, "")),
        outcome=cast("OutcomeName", str(found.get(semconv.CELERY_OUTCOME, "unknown"))),
        attempt=_count(found, semconv.CELERY_ATTEMPT, 1),
        exception=_raised(span.events),
        expected=found.get(semconv.CELERY_EXPECTED) is True,
        reason=_text(found, semconv.CELERY_REASON),
        eager=found.get(semconv.CELERY_EAGER) is True,
        queue=_text(found, semconv.CELERY_QUEUE),
        queue_latency=_seconds(found, semconv.CELERY_QUEUE_LATENCY),
        duration=(span.end_ns - span.start_ns) / _NANOSECONDS,
        event_id=_text(found, semconv.SENTRY_EVENT_ID),
        trace_id=span.trace_id,
        span_id=span.span_id,
        parent_id=span.parent_id,
        attributes=found,
        span=span,
    )


def _publish(span: ReceivedSpan) -> TaskPublish:
    found = span.attributes
    return TaskPublish(
        task=str(found[semconv.CELERY_TASK_NAME]),
        task_id=str(found.get(semconv.CELERY_TASK_ID, "")),
        queue=_text(found, semconv.CELERY_QUEUE),
        eta=_text(found, semconv.CELERY_ETA),
        attempt=_count(found, semconv.CELERY_ATTEMPT, 1),
        error=_raised(span.events),
        trace_id=span.trace_id,
        span_id=span.span_id,
        parent_id=span.parent_id,
        attributes=found,
        span=span,
    )


def _raised(moments: Iterable[ReceivedMoment]) -> Raised | None:
    for moment in reversed(tuple(moments)):
        if moment.name == _EXCEPTION:
            found = moment.attributes
            return Raised(
                type=str(found.get("exception.type", "")),
                message=str(found.get("exception.message", "")),
                stacktrace=str(found.get("exception.stacktrace", "")),
            )
    return None


def event_of(received: ReceivedEvent) -> Event:
    """Return a Sentry event."""
    data = received.data
    tags = {str(name): str(value) for name, value in _table(data.get("tags")).items()}
    trace = _trace(data)
    return Event(
        event_id=received.event_id,
        exception=_of_values(_table(data.get("exception")).get("values")),
        message=_message(data),
        level=str(data.get("level", "error")),
        task=tags.get(semconv.TAG_TASK_NAME) or tags.get(semconv.TAG_TASK),
        task_id=tags.get(semconv.TAG_TASK_ID),
        tags=tags,
        fingerprint=tuple(map(str, _list(data.get("fingerprint")))),
        trace_id=str(trace.get("trace_id", "")),
        span_id=str(trace.get("span_id", "")),
        data=data,
    )


def trace_of(received: ReceivedEvent) -> str:
    """Return the id of an event's trace; empty without one."""
    return str(_trace(received.data).get("trace_id", ""))


def _trace(data: Mapping[str, object]) -> Mapping[str, Any]:
    return _table(_table(data.get("contexts")).get("trace"))


def _of_values(values: object) -> Raised | None:
    found = [_table(value) for value in _list(values)]
    if not found:
        return None
    outermost = found[-1]
    kind, module = str(outermost.get("type", "")), outermost.get("module")
    plain = module in {None, "", "builtins"}
    return Raised(
        type=kind if plain else f"{module}.{kind}", message=str(outermost.get("value") or "")
    )


def _message(data: Mapping[str, object]) -> str | None:
    entry = _table(data.get("logentry"))
    found = entry.get("formatted") or entry.get("message") or data.get("message")
    return None if found is None else str(found)


def log_of(received: ReceivedLog) -> Log:
    """Return a log record."""
    found = received.attributes
    return Log(
        message=str(received.body),
        level=received.severity_text,
        logger=received.scope,
        task=_text(found, semconv.LOG_TASK_NAME),
        task_id=_text(found, semconv.LOG_TASK_ID),
        trace_id=received.trace_id,
        span_id=received.span_id,
        attributes=found,
    )


def _text(found: Mapping[str, object], name: str) -> str | None:
    value = found.get(name)
    return None if value is None else str(value)


def _count(found: Mapping[str, object], name: str, default: int) -> int:
    value = found.get(name)
    return value if isinstance(value, int) else default


def _seconds(found: Mapping[str, object], name: str) -> float | None:
    value = found.get(name)
    return float(value) if isinstance(value, (int, float)) else None


def _table(value: object) -> Mapping[str, Any]:
    return cast("Mapping[str, Any]", value) if isinstance(value, dict) else {}


def _list(value: object) -> list[Any]:
    return list(cast("list[Any]", value)) if isinstance(value, (list, tuple)) else []
