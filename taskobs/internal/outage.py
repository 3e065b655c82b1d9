"""Two log lines for an outage of a backend: one when it begins, and one when it ends.

Libraries log each attempt, so what they log of a backend that is away is left out.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable
from typing import Final

from taskobs.internal.causes import describe, innermost, masked

_QUIET: Final = 60.0
"""Seconds between two outages that are logged, so that a flapping backend doesn't fill the log."""


class Outage:
    """The state of one backend. Not thread-safe."""

    def __init__(self, log: logging.Logger, export: str) -> None:
        """``export`` is what the log calls it, such as "taskobs relay: span export"."""
        self.reason = ""
        """Why the last attempt failed; empty while the backend works."""
        self._log = log
        self._export = export
        self._since = 0.0
        self._logged_at = -_QUIET
        self._logged = False
        self._lost = 0

    def began(self, reason: str) -> None:
        """Note an attempt that failed."""
        now = time.monotonic()
        if not self.reason:
            self._since = now
            self._logged = now - self._logged_at >= _QUIET
            if self._logged:
                self._logged_at = now
                self._log.warning("%s failed, retrying: %s", self._export, reason)
        self.reason = reason

    def lost(self, number: int) -> None:
        """Note what will not be sent again; the last line has the number."""
        self._lost += number

    def ended(self) -> None:
        """Note an attempt that was accepted."""
        if self.reason and self._logged:
            took = time.monotonic() - self._since
            text = "%s works again, after %.0f s" + (f"; {self._lost} lost" if self._lost else "")
            self._log.warning(text, self._export, took)
            self._lost = 0
        self.reason = ""

    def closed(self) -> None:
        """Note that nothing more is sent; what was lost is logged, if no line has said so."""
        if self._lost:
            self._log.warning("%s failed: %d lost: %s", self._export, self._lost, self.reason)
            self._lost = 0


class LibraryLog(logging.Filter):
    """Takes the warnings that libraries log within a ``with`` block, of the block's own thread.

    ``take`` is called with what each says: the cause of the exception in it, or else its text,
    without ``secrets``.
    """

    def __init__(
        self,
        loggers: Iterable[str],
        take: Callable[[str], object],
        secrets: Iterable[str] = (),
    ) -> None:
        super().__init__()
        self._take = take
        self._secrets = tuple(secrets)
        self._thread = threading.local()
        self._loggers = [logging.getLogger(name) for name in loggers]
        for logger in self._loggers:
            logger.addFilter(self)

    def __enter__(self) -> None:
        self._thread.inside = True

    def __exit__(self, *_: object) -> None:
        self._thread.inside = False

    def filter(self, record: logging.LogRecord) -> bool:
        """Take a record; False keeps it out of the log."""
        if record.levelno < logging.WARNING or not getattr(self._thread, "inside", False):
            return True
        self._take(masked(_said_by(record), self._secrets))
        return False

    def close(self) -> None:
        """Take no more."""
        for logger in self._loggers:
            logger.removeFilter(self)


def _said_by(record: logging.LogRecord) -> str:
    given = record.args if isinstance(record.args, tuple) else ()
    errors = (one for one in given if isinstance(one, BaseException))
    error = next(errors, None)
    return record.getMessage() if error is None else describe(innermost(error))
