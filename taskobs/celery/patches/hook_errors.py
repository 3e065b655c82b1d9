"""What Celery says only in its log: that a hook of a task raised."""

from __future__ import annotations

import logging
from collections.abc import Callable


class HookErrors(logging.Handler):
    """Hears of hooks that raise (``on_success``, ``after_return``): Celery only logs them.

    The records of a task's own failure carry ``data``; those of a hook do not.
    """

    def __init__(self, report: Callable[[BaseException], None]) -> None:
        super().__init__(logging.ERROR)
        self._report = report
        self._logger = logging.getLogger("celery.app.trace")

    def install(self) -> None:
        """Listen from now on."""
        self._logger.addHandler(self)

    def remove(self) -> None:
        """Listen no more."""
        self._logger.removeHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        """Report the exception of a hook's record."""
        error = record.exc_info[1] if record.exc_info else None
        if error is not None and not hasattr(record, "data"):
            self._report(error)
