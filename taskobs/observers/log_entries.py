"""Makes entries of OpenTelemetry's log data model from the records of ``logging``.

https://opentelemetry.io/docs/specs/otel/logs/data-model/
"""

from __future__ import annotations

import logging
import re
import time
import traceback
from collections.abc import Mapping
from itertools import islice
from typing import TYPE_CHECKING, Any, Final, cast

from taskobs import semconv
from taskobs.observers.context import state as context_state
from taskobs.observers.logs import fields_of, is_complete
from taskobs.observers.sentry.celery_texts import is_celery_logger, safe_message, without_arguments
from taskobs.observers.sentry.redact import MAX_ITEMS, brief
from taskobs.protocol.log_entries import MAX_BODY, MAX_TEXT, LogEntry, cut
from taskobs.protocol.sanitize import UNEXPECTED, sanitize

if TYPE_CHECKING:  # the records take a third of what init() imports
    from taskobs.model import Run

_LONGEST_NAME: Final = 256
_BASES: Final = {0: 1, 1: 5, 2: 9, 3: 13, 4: 17}
"""By tens of a level, the first of four severity numbers: TRACE, DEBUG, INFO, WARN, ERROR."""
_FATAL: Final = 21
_STEPS: Final = 3
_TRACE_ID: Final = re.compile(r"[0-9a-f]{32}")
_SPAN_ID: Final = re.compile(r"[0-9a-f]{16}")
_FLAGS: Final = re.compile(r"[0-9a-f]{2}")
_IDS: Final = frozenset({semconv.LOG_TRACE_ID, semconv.LOG_SPAN_ID, semconv.LOG_TRACE_FLAGS})
_OF_TASK: Final = (semconv.LOG_TASK_ID, semconv.LOG_TASK_NAME)
_STANDARD: Final = frozenset(
    {
        *logging.LogRecord("", 0, "", 0, "", (), None).__dict__,
        *("asctime", "message", "taskName"),
    }
)
"""What each record has; the rest is what ``extra`` gave."""
_OF_CELERY: Final = frozenset({"data", "args", "kwargs", "return_value"})
"""Fields of Celery's own records, which have the arguments and the result of a task in them."""
_LEFT_OUT: Final = _STANDARD | _IDS | frozenset(_OF_TASK)
_LEFT_OUT_OF_CELERYS: Final = _LEFT_OUT | _OF_CELERY
_EVENT: Final = "event"
"""Where structlog has the text of what it leaves to a formatter."""


def entry_of(record: logging.LogRecord, run: Run | None, *, private: bool = True) -> LogEntry:
    """Return a record as an entry; ``run`` is the one that is active here.

    With ``private``, the text of Celery's own records has no arguments and results. A value with
    a name such as "password" is never shown.
    """
    given = _with_fields(record.__dict__, run)
    body, event = _body(record, private=private)
    extra, dropped = _extra(record, given, event)
    ids = _ids(given)
    trace_id, span_id = ids[semconv.LOG_TRACE_ID], ids[semconv.LOG_SPAN_ID]
    return LogEntry(
        timestamp_ns=int(record.created * 1e9),
        observed_ns=time.time_ns(),
        severity_number=severity_number(record.levelno),
        severity_text=_name(record.levelname),
        body=cut(body, MAX_BODY),
        trace_id=trace_id,
        span_id=span_id if trace_id else "",
        trace_flags=int(ids[semconv.LOG_TRACE_FLAGS] or "0", 16),
        scope=_name(record.name),
        attributes={
            **extra,
            **{name: _name(ids[name]) for name in _OF_TASK if ids[name]},
            **_code(record),
            **_exception(record),
        },
        dropped_attributes=dropped,
    )


def severity_number(level: int) -> int:
    """Return the severity number of a level; 0 for none."""
    if level <= 0:
        return 0
    tens, rest = divmod(level, 10)
    return _BASES.get(tens, _FATAL) + min(rest if tens in _BASES else level - 50, _STEPS)


def _name(value: object) -> str:
    return cut(str(value), _LONGEST_NAME)


def _body(record: logging.LogRecord, *, private: bool) -> tuple[str, Mapping[str, object]]:
    """Return a record's text, and what else is in a message that is a mapping."""
    message: object = record.msg
    if isinstance(message, Mapping) and _EVENT in message:  # structlog's wrap_for_formatter
        event = cast("Mapping[str, object]", message)
        rest = {name: value for name, value in event.items() if name != _EVENT}
        return str(event[_EVENT]), rest
    if not (private and is_celery_logger(record.name)):
        return _text(record), {}
    safe = safe_message(record.msg, record.args)
    return without_arguments(_text(record) if safe is None else safe[0]), {}


def _text(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except UNEXPECTED:  # values that don't fit the format; the app's own handlers say so
        return str(record.msg)


def _extra(
    record: logging.LogRecord, fields: Mapping[str, object], event: Mapping[str, object]
) -> tuple[dict[str, object], int]:
    """Return what the caller gave beside the text, and how much of it is left out."""
    left_out = _LEFT_OUT_OF_CELERYS if is_celery_logger(record.name) else _LEFT_OUT
    empty = context_state.keys  # empty on lines of what has no such value
    # `extra` may have keys of any type.
    given = dict[object, object]([*fields.items(), *event.items()])
    found = {
        name: value
        for name, value in given.items()
        if isinstance(name, str) and name not in left_out and not name.startswith("_")
        if value != "" or name not in empty
    }
    if not found:
        return {}, 0
    kept = dict(islice(found.items(), MAX_ITEMS))
    # A mapping's keys are texts here, as they are names of attributes.
    shown = cast("dict[str, object]", sanitize(brief(kept)))
    return shown, len(found) - len(kept)


def _with_fields(given: Mapping[str, Any], run: Run | None) -> Mapping[str, Any]:
    """Return a record's fields with ids and context values: its own, or else this moment's."""
    if is_complete(given):
        return given
    return {**fields_of(run), **given}


def _ids(given: Mapping[str, Any]) -> Mapping[str, str]:
    """Return the ids among a record's fields."""
    found = {name: str(given[name]) for name in (*_IDS, *_OF_TASK)}
    for name, form in _FORMS.items():
        if not form.fullmatch(found[name]):  # a field of the app's own, under the same name
            found[name] = ""
    return found


_FORMS: Final = {
    semconv.LOG_TRACE_ID: _TRACE_ID,
    semconv.LOG_SPAN_ID: _SPAN_ID,
    semconv.LOG_TRACE_FLAGS: _FLAGS,
}


def _code(record: logging.LogRecord) -> dict[str, object]:
    found = {
        semconv.RECORD_CODE_FILE: record.pathname,
        semconv.RECORD_CODE_FUNCTION: record.funcName,
        semconv.RECORD_CODE_LINE: record.lineno,
        semconv.PROCESS_PID: record.process,
        semconv.RECORD_THREAD_NAME: record.threadName,
    }
    return {
        name: value if isinstance(value, int) else cut(str(value), MAX_TEXT)
        for name, value in found.items()
        if value is not None
    }


def _exception(record: logging.LogRecord) -> dict[str, object]:
    found: dict[str, str] = {}
    error = record.exc_info[1] if isinstance(record.exc_info, tuple) else None
    if error is not None:
        found[semconv.RECORD_EXCEPTION_TYPE] = (
            f"{type(error).__module__}.{type(error).__qualname__}"
        )
        found[semconv.RECORD_EXCEPTION_MESSAGE] = without_arguments(_said_by(error))
        found[semconv.RECORD_EXCEPTION_STACKTRACE] = without_arguments(_stack_of(error))
    elif record.exc_text:
        # Written by whoever formatted or queued the record first.
        found[semconv.RECORD_EXCEPTION_STACKTRACE] = without_arguments(record.exc_text)
    if record.stack_info:
        found[semconv.RECORD_CODE_STACKTRACE] = record.stack_info
    return {
        name: cut(text, MAX_TEXT // len(found), end=name.endswith("stacktrace"))
        for name, text in found.items()
    }


def _said_by(error: BaseException) -> str:
    try:
        return str(error)
    except UNEXPECTED:
        return ""


def _stack_of(error: BaseException) -> str:
    try:
        return "".join(traceback.format_exception(type(error), error, error.__traceback__))
    except UNEXPECTED:  # a __str__ or a source file that can't be read
        return ""
