"""Recognises events that repeat a failure which was reported already.

Receivers of Celery's signals, and hooks of tasks, log failures that have, or will have, an event
of their own. Their loggers may have any name, so names are not compared.
"""

from __future__ import annotations

import inspect
import sys
import time
from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple, cast

from taskobs.internal.exceptions import weak as weak_exceptions
from taskobs.model import Outcome, Run
from taskobs.observers.sentry import redact

_HANDLER: Final = ("celery.app.trace", "handle_failure")
"""Celery's function in which hooks and receivers are told of a run's failure."""
_SHORT: Final = 4
"""A text of fewer characters may be part of any message."""
_LONG: Final = 12
_REMEMBERED: Final = 64
_SECONDS: Final = 60.0
_TOLD_BY_WORKER: Final = frozenset({Outcome.LOST, Outcome.UNKNOWN})


class _Failure(NamedTuple):
    exception: weak_exceptions.Reference | None
    text: str
    until: float


class ReportedFailures:
    """The failures that this process has reported lately, without a strong reference to them."""

    def __init__(self) -> None:
        self._failures: deque[_Failure] = deque(maxlen=_REMEMBERED)

    def add(self, run: Run, exception: BaseException) -> None:
        """Remember a failure that was reported."""
        reference = weak_exceptions.found_reference(exception)
        # By its text only what the worker says of a run that could not: that has a form of its own.
        text = text_of(exception) if run.outcome in _TOLD_BY_WORKER else ""
        if reference is not None or len(text) >= _LONG:
            self._failures.append(_Failure(reference, text, time.monotonic() + _SECONDS))

    def covers(self, event: Mapping[str, object], hint: Mapping[str, Any]) -> bool:
        """Tell whether an event that belongs to no run reports one of them again."""
        if not self._failures:
            return False
        exception, now = exception_of(hint), time.monotonic()
        if exception is not None:
            return any(
                weak_exceptions.refers_to(one.exception, exception) for one in self._failures
            )
        if hint.get("log_record") is None:
            return False
        said = said_by(event)
        return any(
            len(one.text) >= _LONG and one.until > now and one.text in said
            for one in self._failures
        )


def repeats_handled_failure(event: Mapping[str, object], hint: Mapping[str, Any], run: Run) -> bool:
    """Tell whether an event is a log line about the failure of a run that Celery is handling."""
    failure = sys.exc_info()[1]
    if failure is None or hint.get("log_record") is None:
        return False
    handled = next(_handled(), None)
    if handled is None or isinstance(failure, getattr(handled, "throws", None) or ()):
        return False
    text, said = text_of(failure), said_by(event)
    return text in said and (len(text) >= _SHORT or run.task_id in said)


def exception_of(hint: Mapping[str, Any]) -> BaseException | None:
    """Return the exception that an event was made of."""
    found: object = hint.get("exc_info")
    exception = cast("tuple[object, ...]", found)[1] if isinstance(found, tuple) else None
    return exception if isinstance(exception, BaseException) else None


def said_by(event: Mapping[str, object]) -> str:
    """Return the text of an event, with the values that a structured logger puts beside it."""
    entry = redact.table(event.get("logentry"))
    parts = [entry.get("formatted") or entry.get("message"), event.get("message")]
    parts += redact.table(event.get("extra")).values()
    return "\n".join(part for part in parts if isinstance(part, str))


def text_of(exception: BaseException) -> str:
    """Return the text of an exception, whatever its ``__str__`` does."""
    try:
        return str(exception)
    except Exception:  # noqa: BLE001  # a task's own __str__ may do anything
        return type(exception).__name__


def _handled() -> Iterator[object]:
    """Yield the task whose failure Celery is handling above us in this thread."""
    frame = inspect.currentframe()
    while frame is not None:
        if (frame.f_globals.get("__name__"), frame.f_code.co_name) == _HANDLER:
            yield frame.f_locals.get("task")
        frame = frame.f_back
