"""Reports exceptions of tasks' hooks and of batches, for which Celery sends no signal."""

from __future__ import annotations

import logging
from collections.abc import Callable

Report = Callable[[BaseException], None]


class LoggedErrors:
    """Reports hooks that raise (``on_success``, ``after_return``), and failures of batches.

    Celery only logs the first, and celery-batches the second (seen in 0.11).
    """

    def __init__(self, hook_failed: Report, batch_failed: Report) -> None:
        self._hooks = _Handler("celery.app.trace", hook_failed)
        self._batches = _Handler("celery_batches.trace", batch_failed)

    def install(self) -> None:
        """Add a handler to Celery's logger."""
        self._hooks.install()

    def watch_batches(self) -> None:
        """Also handle the logger of batches; called when the first batch begins."""
        self._batches.install()

    def remove(self) -> None:
        """Remove the handlers."""
        self._hooks.remove()
        self._batches.remove()


class _Handler(logging.Handler):
    """Reports the exceptions in a logger's records, except those of a task's own failure."""

    def __init__(self, logger: str, report: Report) -> None:
        super().__init__(logging.ERROR)
        self._logger = logger
        self._report = report

    def install(self) -> None:
        logging.getLogger(self._logger).addHandler(self)  # a second time does nothing

    def remove(self) -> None:
        logging.getLogger(self._logger).removeHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        # Celery's record of a task's own failure has `data` (seen in 5.3 to 5.7); the run
        # reports that one itself.
        if error is not None and not hasattr(record, "data"):
            self._report(error)
