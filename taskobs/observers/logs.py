"""Task and trace ids on log records."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import wrapt
from opentelemetry import trace

from taskobs import semconv
from taskobs.model import Run


class LogFields:
    """Gives each record ``task_id``, ``task_name``, ``trace_id``, ``span_id``, ``trace_flags``.

    Outside a run or a span the fields are empty strings, so that a format that names them always
    works; what a record has already stays. ``Logger.handle`` is where they are added: after
    ``extra``, which a record factory would make raise, and before all handlers, whenever they
    were made: Celery, Django and others set up logging long after ``init()``.
    """

    def __init__(self, current_run: Callable[[], Run | None]) -> None:
        self._current_run = current_run
        self._original: Any = None
        self._wrapper: Any = None
        self._on = False

    def install(self) -> None:
        """Add the fields from now on, in all loggers of the process."""
        self._on = True
        self._original = logging.Logger.__dict__["handle"]
        self._wrapper = wrapt.FunctionWrapper(
            self._original, self._handle, enabled=lambda: self._on
        )
        logging.Logger.handle = self._wrapper  # type: ignore[method-assign]  # undone by remove()

    def remove(self) -> None:
        """Add them no more; a wrapper that somebody else has wrapped since does nothing."""
        self._on = False
        if self._wrapper is not None and logging.Logger.__dict__["handle"] is self._wrapper:
            logging.Logger.handle = self._original  # type: ignore[method-assign]  # as it was
        self._wrapper = None

    def _handle(
        self, handle: Callable[..., None], _: object, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        record = args[0] if args else kwargs.get("record")
        if isinstance(record, logging.LogRecord):
            self._add(record)
        handle(*args, **kwargs)

    def _add(self, record: logging.LogRecord) -> None:
        run = self._current_run()
        span = trace.get_current_span().get_span_context()
        fields = record.__dict__
        fields.setdefault(semconv.LOG_TASK_ID, run.task_id if run else "")
        fields.setdefault(semconv.LOG_TASK_NAME, run.task if run else "")
        valid = span.is_valid
        fields.setdefault(semconv.LOG_TRACE_ID, f"{span.trace_id:032x}" if valid else "")
        fields.setdefault(semconv.LOG_SPAN_ID, f"{span.span_id:016x}" if valid else "")
        fields.setdefault(semconv.LOG_TRACE_FLAGS, f"{span.trace_flags:02x}" if valid else "")
