"""Waits for the first thing that Sentry records without being asked: a log record, an error."""

from __future__ import annotations

import logging
import sys
import threading
from collections import deque
from collections.abc import Callable
from typing import Any, Final

from taskobs.internal.wrapping import Patches

_OWN_LOGS: Final = frozenset({"taskobs", "opentelemetry"})
"""Loggers whose records Sentry doesn't get, with all below them."""


_BREADCRUMBS: Final = 100
"""As many as Sentry keeps by default."""


class FirstError:
    """Calls ``begin`` before an error is logged, or when an exception ends a thread.

    A record then finds Sentry's integration in place. The exception is captured here: Sentry's
    integrations take those of threads that start later, and the hook was called already.
    """

    def __init__(self, begin: Callable[[], object]) -> None:
        self._begin = begin
        self._patches = Patches()
        self._kept: deque[logging.LogRecord] = deque(maxlen=_BREADCRUMBS)

    def install(self) -> None:
        """Wait from now on."""
        self._patches.wrap(logging.Logger, "handle", self._logged)
        self._patches.wrap(sys, "excepthook", self._uncaught)
        self._patches.wrap(threading, "excepthook", self._uncaught_in_thread)

    def remove(self) -> None:
        """Stop waiting."""
        self._patches.remove()

    def replay(self) -> None:
        """Give Sentry the records that were logged meanwhile, as breadcrumbs of later events."""
        kept = list(self._kept)
        self._kept.clear()
        if kept:
            from taskobs.sentry.unreported import replay

            replay(kept)

    def _logged(
        self, handle: Callable[..., Any], _: object, args: tuple[Any, ...], named: dict[str, Any]
    ) -> object:
        record = args[0] if args else named.get("record")
        if isinstance(record, logging.LogRecord) and _is_for_sentry(record):
            if record.levelno >= logging.ERROR:
                self._begin()
            else:
                self._kept.append(record)
        return handle(*args, **named)

    def _uncaught(
        self, hook: Callable[..., Any], _: object, args: tuple[Any, ...], named: dict[str, Any]
    ) -> object:
        if not hasattr(sys, "ps1"):  # Sentry leaves out interactive interpreters, too
            self._begin()
            self._capture(args[1], "excepthook")
        return hook(*args, **named)

    def _uncaught_in_thread(
        self, hook: Callable[..., Any], _: object, args: tuple[Any, ...], named: dict[str, Any]
    ) -> object:
        error = getattr(args[0], "exc_value", None)
        if isinstance(error, Exception):
            self._begin()
            self._capture(error, "threading")
        return hook(*args, **named)

    @staticmethod
    def _capture(error: BaseException, mechanism: str) -> None:
        from taskobs.sentry.unreported import capture

        capture(error, mechanism)


def _is_for_sentry(record: logging.LogRecord) -> bool:
    """Tell whether Sentry keeps a record: by default it does from INFO on."""
    return record.levelno >= logging.INFO and record.name.partition(".")[0] not in _OWN_LOGS
