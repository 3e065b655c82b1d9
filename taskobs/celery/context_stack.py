"""The context managers that observers have opened for one publish or one run."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager

from taskobs.celery.observer_calls import Opener
from taskobs.internal.guard import Guard
from taskobs.observers.base import NOTHING


class ContextStack:
    """Closes context managers in reverse order, each of them even if another one raises.

    An ``ExitStack`` with a guard around each does the same, but opening and closing it costs as
    much as all that the observers do. Not thread-safe.
    """

    __slots__ = ("_guard", "_open")

    def __init__(self, guard: Guard) -> None:
        self._guard = guard
        self._open: list[AbstractContextManager[object]] = []

    def open(self, openers: Iterable[Opener], record: object) -> None:
        """Enter what each opener returns for the record; an opener that raises is skipped."""
        for opener in openers:
            try:
                manager = opener(record)
                if manager is not NOTHING:
                    manager.__enter__()
                    self._open.append(manager)
            except Exception as error:  # noqa: PERF203  # free since Python 3.11
                if not self._guard.swallows(error):
                    raise

    def close(self) -> None:
        """Exit all; an exception that the guard must not swallow is raised after the last."""
        try:
            while self._open:
                try:
                    # Removed first: a time limit's signal may interrupt the exit, which must not
                    # be called a second time then.
                    self._open.pop().__exit__(None, None, None)
                except Exception as error:  # noqa: PERF203  # free since Python 3.11
                    if not self._guard.swallows(error):
                        raise
        finally:
            if self._open:
                self.close()
