"""Reports exceptions that Celery logs and sends no signal for: of hooks, errbacks and callbacks."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final

from taskobs.celery.patches.celery_stack import is_of_chord_header

Report = Callable[[BaseException], None]

_LOGGERS: Final = (
    *("celery.backends.base", "celery.backends.redis", "celery.app.builtins"),
    "celery.worker.request",
)
_BESIDE: Final = ("Chord ", "Errback ", "Failed to retry task ")
"""How the records of these loggers begin that are about a failure beside that of a task."""
_UNLOCK: Final = "could not be retried"
"""What Celery says of a chord whose polling task fails by the same exception."""


class LoggedErrors:
    """Reports what fails beside a task, and failures of batches.

    Beside a task: its hooks (``on_success``, ``after_return``), the clean-up after it, an errback,
    the callback of its chord, or the retry of a lost run, which can't be sent. Celery only logs
    them, and celery-batches only logs the failure of a batch (seen in 0.11).
    """

    def __init__(self, hook_failed: Report, batch_failed: Report) -> None:
        others = (_OtherHandler(logger, hook_failed) for logger in _LOGGERS)
        self._hooks = (_Handler("celery.app.trace", hook_failed), *others)
        self._batches = _Handler("celery_batches.trace", batch_failed)

    def install(self) -> None:
        """Add handlers to Celery's loggers."""
        for handler in self._hooks:
            handler.install()

    def watch_batches(self) -> None:
        """Also handle the logger of batches; called when the first batch begins."""
        self._batches.install()

    def remove(self) -> None:
        """Remove the handlers."""
        for handler in (*self._hooks, self._batches):
            handler.remove()


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
        if error is not None and not self._is_reported(record, error):
            self._report(error)

    def _is_reported(self, record: logging.LogRecord, error: BaseException) -> bool:
        del error
        # Celery's record of a task's own failure has `data` (seen in 5.3 to 5.7); the run
        # reports that one itself.
        return hasattr(record, "data")


class _OtherHandler(_Handler):
    """Reports what breaks a chord, an errback or the retry of a lost run.

    Not the failure of a task in a chord's header, which that task reports.
    """

    def _is_reported(self, record: logging.LogRecord, error: BaseException) -> bool:
        message = str(record.msg)
        if not message.startswith(_BESIDE) or _UNLOCK in message:
            return True
        return message.startswith("Chord ") and is_of_chord_header(error)
