"""Which run a thread works for, where the run has started it or handed it a function.

Context variables are not inherited by threads. What is inherited here is for log records alone: the
context of OpenTelemetry, and so the parent of a thread's spans, stays as it is.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final
from weakref import WeakKeyDictionary

from taskobs.internal.import_hooks import when_imported
from taskobs.internal.wrapping import Patches

if TYPE_CHECKING:  # the records take a third of what init() imports
    from taskobs.model import Run

_EXECUTORS: Final = "concurrent.futures.thread"
_started_by: Final[WeakKeyDictionary[threading.Thread, Run]] = WeakKeyDictionary()
_handed_by: Final[ContextVar[Run | None]] = ContextVar("taskobs_handed_by", default=None)


def run_of_thread() -> Run | None:
    """Return the run that this thread works for, though it is not the run's own.

    A thread that was started by a run is taken to work for it until the run ends, as it may be one
    that a library has started for good. A function in an executor works for its run to its end.
    """
    handed = _handed_by.get()
    if handed is not None or not _started_by:
        return handed
    run = _started_by.get(threading.current_thread())
    return run if run is not None and run.outcome is None else None


class ThreadRuns:
    """Notes the runs that start threads and hand functions to executors, while installed."""

    def __init__(self, current_run: Callable[[], Run | None]) -> None:
        self._current_run = current_run
        self._patches = Patches()
        self._forget: Callable[[], None] | None = None

    def install(self) -> None:
        """Wrap ``Thread.start`` and ``ThreadPoolExecutor.submit``."""
        self._patches.wrap(threading.Thread, "start", self._start)
        self._forget = when_imported(_EXECUTORS, self._wrap_submit)

    def remove(self) -> None:
        """Unwrap them."""
        if self._forget is not None:
            self._forget()
        self._patches.remove()

    def _wrap_submit(self) -> None:
        executors = sys.modules[_EXECUTORS]
        self._patches.wrap(executors.ThreadPoolExecutor, "submit", self._submit)

    def _start(
        self,
        start: Callable[..., object],
        thread: threading.Thread,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> object:
        run = self._current_run() or run_of_thread()
        if run is not None:
            for other, its_run in list(_started_by.items()):
                if its_run.outcome is not None:  # a record may hold large arguments
                    del _started_by[other]
            _started_by[thread] = run
        return start(*args, **kwargs)

    def _submit(
        self,
        submit: Callable[..., object],
        _: object,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> object:
        run = self._current_run() or run_of_thread()
        if run is None or not args:
            return submit(*args, **kwargs)
        function, *given = args
        return submit(_Handed(function, run), *given, **kwargs)


class _Handed:
    """A function that a run has handed to an executor."""

    __slots__ = ("_function", "_run")

    def __init__(self, function: Callable[..., object], run: Run) -> None:
        self._function = function
        self._run = run

    def __call__(self, *args: Any, **kwargs: Any) -> object:  # noqa: ANN401  # the function's
        token = _handed_by.set(self._run)
        try:
            return self._function(*args, **kwargs)
        finally:
            _handed_by.reset(token)
