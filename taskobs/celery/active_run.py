"""The run that this thread or greenlet is in.

One record in one context variable holds the run that is open; it is restored, not cleared, so eager
runs nest, and threads and greenlets don't see each other's.
"""

from __future__ import annotations

import sys
from contextvars import ContextVar
from typing import Final

from taskobs.celery._types import Task
from taskobs.celery.context_stack import ContextStack
from taskobs.internal.guard import Guard
from taskobs.model import Run


class ActiveRun(ContextStack):
    """A run that is open, and the one to restore at its end.

    ``handling`` is what the caller was handling already: not what ended the run. A ``batch`` is a
    run whose signals somebody else than Celery sends; ``logged`` is the last exception in its log.
    ``refused`` is what ``retry`` raised when it could not publish, and what it was to retry for.
    """

    __slots__ = (
        *("batch", "depth", "handling", "logged", "outer", "refused", "reported", "run", "task"),
    )

    def __init__(self, guard: Guard, run: Run, task: Task, outer: ActiveRun | None) -> None:
        self._guard, self._open = guard, []  # what the base does, without the call
        self.run = run
        self.task = task
        self.outer = outer
        self.depth: int = 0 if outer is None else outer.depth + 1
        self.batch = False
        self.logged: BaseException | None = None
        self.refused: tuple[BaseException, object] | None = None
        self.handling = sys.exc_info()[1]
        self.reported: tuple[BaseException, ...] = ()


ACTIVE_RUN: Final[ContextVar[ActiveRun | None]] = ContextVar("taskobs_run", default=None)


def current_run() -> Run | None:
    """Return the run that this thread or greenlet is in."""
    found = ACTIVE_RUN.get()
    return found.run if found else None


def active_run(task_id: str) -> ActiveRun | None:
    """Return the run that is open, if it is that of a task."""
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
