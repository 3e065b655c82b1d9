"""Task and trace ids on log records."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

from taskobs import semconv
from taskobs.internal.wrapping import Patches
from taskobs.observers.context import state as context_state
from taskobs.observers.thread_runs import ThreadRuns, run_of_thread

if TYPE_CHECKING:  # the records take a third of what init() imports
    from taskobs.model import Run

_API: Final = "opentelemetry.trace"
_NAMES: Final = frozenset(
    {
        *(semconv.LOG_TASK_ID, semconv.LOG_TASK_NAME),
        *(semconv.LOG_TRACE_ID, semconv.LOG_SPAN_ID, semconv.LOG_TRACE_FLAGS),
    }
)


def fields_of(run: Run | None) -> dict[str, str]:
    """Return the fields of a log record that is made now; a missing value is empty."""
    here, run = run, run or run_of_thread()
    # Not imported for this: a process that has not imported it has no spans.
    current: Any = getattr(sys.modules.get(_API), "get_current_span", None)
    span = None if current is None else current().get_span_context()
    ids = "", "", ""
    if span is not None and span.is_valid:
        ids = f"{span.trace_id:032x}", f"{span.span_id:016x}", f"{span.trace_flags:02x}"
    elif run is not None and run.span is not None:  # in a thread of the run
        ids = run.span.trace_id, run.span.span_id, f"{run.span.sampled:02x}"
    found = {
        semconv.LOG_TASK_ID: run.task_id if run else "",
        semconv.LOG_TASK_NAME: run.task if run else "",
        semconv.LOG_TRACE_ID: ids[0],
        semconv.LOG_SPAN_ID: ids[1],
        semconv.LOG_TRACE_FLAGS: ids[2],
    }
    if context_state.in_use:
        found.update(_context_fields(here, run))
    return found


def _context_fields(here: Run | None, run: Run | None) -> dict[str, str]:
    """Return the context values; a key that messages may carry is there in any case."""
    from taskobs.observers.context import values as context_values  # few apps give any

    values = context_values.values_of(here)
    if not values and run is not None and run is not here:  # in a thread of the run
        values = context_values.last_values_of(run)
    texts = {name: context_values.text_of(value) for name, value in values.items()}
    return {**dict.fromkeys(context_state.keys, ""), **texts}


class LogFields:
    """Adds ``task_id``, ``task_name``, ``trace_id``, ``span_id``, ``trace_flags`` to each record.

    Context values are added under their keys.

    Outside a run or a span the fields are empty strings, so that a format can always name them; a
    field that a record already has is kept. ``Logger.handle`` adds them: after ``extra``, which
    raises if a record factory has set the same names, and before all handlers, including those
    that Celery or Django make long after ``init()``.

    A subclass of ``Logger`` may override ``handle``, and a record may go to a handler or a
    formatter without a logger. So those two add missing fields, too.
    """

    def __init__(self, current_run: Callable[[], Run | None]) -> None:
        self._current_run = current_run
        self._patches = Patches()
        self._threads = ThreadRuns(current_run)

    def install(self) -> None:
        """Start adding the fields, in all loggers of the process."""
        self._threads.install()
        self._patches.wrap(logging.Logger, "handle", self._given_record)
        self._patches.wrap(logging.Handler, "handle", self._given_record)
        self._patches.wrap(logging.Formatter, "format", self._given_record)

    def remove(self) -> None:
        """Stop adding them; a wrapper that other code has wrapped since stays, and does nothing."""
        self._threads.remove()
        self._patches.remove()

    def _given_record(
        self, call: Callable[..., Any], _: object, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> object:
        record = args[0] if args else kwargs.get("record")
        if isinstance(record, logging.LogRecord) and not is_complete(record.__dict__):
            add_fields(record, self._current_run())
        return call(*args, **kwargs)


def is_complete(fields: Mapping[str, object]) -> bool:
    """Tell whether a record has all that it gets here."""
    present, keys = fields.keys(), context_state.keys
    return present >= _NAMES and (not keys or present >= keys)


def add_fields(record: logging.LogRecord, run: Run | None) -> None:
    """Add the fields that a record lacks."""
    present = record.__dict__
    present.update({name: value for name, value in fields_of(run).items() if name not in present})
