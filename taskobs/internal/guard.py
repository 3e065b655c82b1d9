"""The only place that swallows exceptions of our own code."""

from __future__ import annotations

import logging
from collections import Counter
from types import TracebackType

_log = logging.getLogger("taskobs")


class Guard:
    """Keeps errors of telemetry from the task: counts them, and logs each type once.

    Use it as a context manager around each call of an observer; it has no state between
    enter and exit, so one guard serves all threads. With ``strict=True`` it counts and
    raises. Exceptions that aren't an ``Exception`` (``SystemExit``, ``KeyboardInterrupt``) and
    those in ``passing`` are never swallowed. With ``once`` only the first one is logged.
    """

    def __init__(
        self,
        *,
        strict: bool = False,
        passing: tuple[type[Exception], ...] = (),
        says: str = "telemetry failed, the task goes on",
        once: bool = False,
    ) -> None:
        self.strict = strict
        self.counts: Counter[str] = Counter()
        self._passing = passing
        self._says = says
        self._once = once

    def __enter__(self) -> None:
        """Do nothing: only the exit matters."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        """Swallow, count and log the exception, or let it pass."""
        return error is not None and self.swallows(error)

    def swallows(self, error: BaseException) -> bool:
        """Count and log ``error``; tell whether to swallow it.

        For loops over observers: a ``try`` is free, a ``with`` costs two calls.
        """
        if not isinstance(error, Exception) or isinstance(error, self._passing):
            return False
        name = f"{type(error).__module__}.{type(error).__qualname__}"
        self.counts[name] += 1
        if self.counts[name] == 1 and not (self._once and len(self.counts) > 1):
            _log.warning("taskobs: %s", self._says, exc_info=error)
        return not self.strict
