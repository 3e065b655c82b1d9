"""The one place that swallows an exception of ours."""

from __future__ import annotations

import logging
from collections import Counter
from types import TracebackType

_log = logging.getLogger("taskobs")


class Guard:
    """Keep trouble in telemetry away from the task: log it once per kind, count it.

    Use it as a context manager around each call of an observer; it has no state between
    enter and exit, so one guard serves all threads. With ``strict=True`` it counts and
    raises. Exceptions that are no ``Exception`` (``SystemExit``, ``KeyboardInterrupt``) and
    those in ``passing`` are never swallowed.
    """

    def __init__(self, *, strict: bool = False, passing: tuple[type[Exception], ...] = ()) -> None:
        self.strict = strict
        self.counts: Counter[str] = Counter()
        self._passing = passing

    def __enter__(self) -> None:
        """Nothing to do: what matters happens at the exit."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        """Swallow, log once and count; or let pass."""
        return error is not None and self.swallows(error)

    def swallows(self, error: BaseException) -> bool:
        """Tell whether ``error`` is to be swallowed, and log and count it.

        For loops over observers: ``try`` costs nothing, ``with`` a guard two calls.
        """
        if not isinstance(error, Exception) or isinstance(error, self._passing):
            return False
        name = f"{type(error).__module__}.{type(error).__qualname__}"
        self.counts[name] += 1
        if self.counts[name] == 1:
            _log.warning("taskobs: telemetry failed, the task goes on", exc_info=error)
        return not self.strict
