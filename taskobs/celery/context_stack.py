"""What observers have opened for one publish or one run, and closing it again."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager

from taskobs.celery.observer_calls import Opener
from taskobs.internal.guard import Guard
from taskobs.observers.base import NOTHING


class ContextStack:
    """Context managers that are closed in the reverse order, each of them whatever happens.

    An ``ExitStack`` that holds a guard before each does the same; with it and generators in
    the place of classes, opening and closing cost as much again as all that observers do.
    Not thread-safe.
    """

    __slots__ = ("_guard", "_open")

    def __init__(self, guard: Guard) -> None:
        self._guard = guard
        self._open: list[AbstractContextManager[object]] = []

    def open(self, openers: Iterable[Opener], record: object) -> None:
        """Enter what each opener returns for the record; one that fails harms no other."""
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
        """Exit them all; what no guard may swallow is raised when all are closed."""
        try:
            while self._open:
                try:
                    # Taken off the list before its exit: an exit that a time limit's signal strikes
                    # is not called a second time.
                    self._open.pop().__exit__(None, None, None)
                except Exception as error:  # noqa: PERF203  # free since Python 3.11
                    if not self._guard.swallows(error):
                        raise
        finally:
            if self._open:
                self.close()
