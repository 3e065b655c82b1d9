"""Waits for the first thing that Sentry records without being asked: a log record, an error."""

from __future__ import annotations

import logging
import sys
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

from taskobs.internal.wrapping import Patches

_OWN_LOGS: Final = frozenset({"taskobs", "opentelemetry"})
"""Loggers whose records Sentry doesn't get, with all below them."""


_BREADCRUMBS: Final = 100
"""As many as Sentry keeps by default."""


class FirstError:
    """Calls ``begin`` before an error is logged, or when an exception ends a thread.

    A record then finds Sentry's integration in place. The exception is captured here: Sentry's
    integrations take those of threads that start later, and the hook was called already. So a
    thread that has started by then is watched until it ends.
    """

    def __init__(self, begin: Callable[[], object]) -> None:
        self._begin = begin
        self._patches = Patches()
        self._kept: deque[logging.LogRecord] = deque(maxlen=_BREADCRUMBS)

    def install(self) -> None:
        """Wait from now on."""
        self._patches.wrap(logging.Logger, "handle", self._logged)
        self._patches.wrap(sys, "excepthook", self._uncaught)
        self._patches.wrap(threading.Thread, "start", self._starts)

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
            if isinstance(args[1], KeyboardInterrupt):
                _end_by_interrupt()
        return hook(*args, **named)

    def _starts(
        self,
        start: Callable[..., Any],
        thread: Any,  # noqa: ANN401  # as wrapt has it
        args: tuple[Any, ...],
        named: dict[str, Any],
    ) -> object:
        # As Sentry's integration does: `threading.excepthook` may be replaced, or be too late.
        run = getattr(thread.run, "__func__", None)
        if run is not None:
            thread.run = self._watched(run)
        return start(*args, **named)

    def _watched(self, run: Callable[[Any], object]) -> Callable[[], object]:
        def watched() -> object:
            try:
                return run(threading.current_thread())  # a reference to it would be a cycle
            except Exception as error:
                self._begin()
                self._capture(error, "threading")
                raise

        return watched

    @staticmethod
    def _capture(error: BaseException, mechanism: str) -> None:
        from taskobs.sentry.unreported import capture

        capture(error, mechanism)


def _end_by_interrupt() -> None:
    """Have this process end by SIGINT all the same, by which a shell tells an interrupt.

    CPython does so if a KeyboardInterrupt ended what it ran last. Modules run code while they are
    imported, such as that of named tuples (seen in 3.11).
    """
    with suppress(KeyboardInterrupt):
        exec("raise KeyboardInterrupt")  # noqa: S102  # a constant


def _is_for_sentry(record: logging.LogRecord) -> bool:
    """Tell whether Sentry keeps a record: by default it does from INFO on."""
    return record.levelno >= logging.INFO and record.name.partition(".")[0] not in _OWN_LOGS
