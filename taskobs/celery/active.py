"""Keeps what observers opened for a publish or a run, and the run that is active here.

One context variable holds the active run of this thread or greenlet. It is restored, not cleared,
so eager runs nest, and threads and greenlets don't see each other's.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Final

from taskobs.celery._types import Task
from taskobs.celery.observer_calls import ObserverCalls, Opener
from taskobs.internal.exceptions.handled import handled
from taskobs.internal.guard import Guard
from taskobs.observers.base import NOTHING

if TYPE_CHECKING:  # the records take a third of what init() imports
    from taskobs.model import Run


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


class ActiveRun(ContextStack):
    """A run from its start to its end, and the run that it is nested in, if any."""

    __slots__ = (
        *("batch", "depth", "handling", "logged", "outer", "refused", "reported", "run", "task"),
    )

    def __init__(self, guard: Guard, run: Run, task: Task, outer: ActiveRun | None) -> None:
        self._guard, self._open = guard, []  # what the base does, without the call
        self.run = run
        self.task = task
        self.outer = outer
        """The run that is active again at the end of this one."""
        self.depth: int = 0 if outer is None else outer.depth + 1
        self.batch = False
        """Whether another than Celery sends the run's signals, as celery-batches does."""
        self.logged: BaseException | None = None
        """The last exception in the log of a batch: its failure, if it is signalled to fail."""
        self.refused: tuple[BaseException, object] | None = None
        """What ``retry`` raised when it could not publish, and what it was to retry for."""
        self.handling = handled()
        """What the caller of an eager run was handling already: it did not end this run."""
        self.reported: tuple[BaseException, ...] = ()
        """The exceptions that were reported as the run's failure."""


ACTIVE_RUN: Final[ContextVar[ActiveRun | None]] = ContextVar("taskobs_run", default=None)


def begin_run(guard: Guard, calls: ObserverCalls, task: Task, run: Run) -> ActiveRun:
    """Make a run the active one, and open each observer for it."""
    active = ActiveRun(guard, run, task, ACTIVE_RUN.get())
    ACTIVE_RUN.set(active)
    active.open(calls.run, run)
    if run.usual or run.chord_links is None:
        return active
    if run.span is not None and run.span.sampled:
        with guard:  # the backend may fail; the run is open all the same
            run.chord_links.save(run.span.traceparent)
    return active


def current_run() -> Run | None:
    """Return the run that this thread or greenlet is in."""
    found = ACTIVE_RUN.get()
    return found.run if found else None


def active_run(task_id: str) -> ActiveRun | None:
    """Return the active run, if it is that of the task with this id."""
    found = ACTIVE_RUN.get()
    return found if found is not None and found.run.task_id == task_id else None


def note_logged_error(error: BaseException) -> None:
    """Note an exception in a batch's log: its failure, if the batch is signalled to fail."""
    found = ACTIVE_RUN.get()
    if found is not None and found.batch:
        found.logged = error


def note_refused_retry(error: BaseException, retried_for: object) -> None:
    """Note that the next attempt could not be published; the task may still handle that."""
    found = ACTIVE_RUN.get()
    if found is not None:
        found.refused = error, retried_for
