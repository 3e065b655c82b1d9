"""Task and trace ids on log records."""

from __future__ import annotations

import logging
from collections.abc import Callable

from opentelemetry import trace

from taskobs import names
from taskobs.facts import Run


class TaskFields(logging.Filter):
    """Give each record ``task_id``, ``task_name``, ``trace_id``, ``span_id``, ``trace_flags``.

    A filter on handlers, not a record factory: factories make a user's own ``extra={"task_id":
    ...}`` raise. What a record has already stays. Outside a run or a span the fields are empty
    strings, so that a format that names them always works.
    """

    def __init__(self, current_run: Callable[[], Run | None]) -> None:
        super().__init__()
        self._current_run = current_run

    def filter(self, record: logging.LogRecord) -> bool:
        """Add the fields; every record passes."""
        run = self._current_run()
        span = trace.get_current_span().get_span_context()
        fields = record.__dict__
        fields.setdefault(names.LOG_TASK_ID, run.task_id if run else "")
        fields.setdefault(names.LOG_TASK_NAME, run.task if run else "")
        valid = span.is_valid
        fields.setdefault(names.LOG_TRACE_ID, f"{span.trace_id:032x}" if valid else "")
        fields.setdefault(names.LOG_SPAN_ID, f"{span.span_id:016x}" if valid else "")
        fields.setdefault(names.LOG_TRACE_FLAGS, f"{span.trace_flags:02x}" if valid else "")
        return True


class LogFields:
    """Puts :class:`TaskFields` on the handlers of loggers, and takes it off again."""

    def __init__(self, current_run: Callable[[], Run | None]) -> None:
        self._filter = TaskFields(current_run)
        self._handlers: list[logging.Handler] = []

    def cover(self, logger: logging.Logger) -> None:
        """Cover the handlers that a logger has now."""
        for handler in logger.handlers:
            if handler not in self._handlers:
                handler.addFilter(self._filter)
                self._handlers.append(handler)

    def close(self) -> None:
        """Take the filter off every handler that has it."""
        while self._handlers:
            self._handlers.pop().removeFilter(self._filter)
