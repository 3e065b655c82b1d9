"""What Celery is doing in this thread: read from its frames, where nothing else says it.

A hook, an errback or a callback that fails is logged by Celery without the run that it belongs to.
Looking at frames is slow, and done for such a record alone.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from types import TracebackType
from typing import Any, Final, NamedTuple

from celery import VERSION
from celery.exceptions import ChordError

from taskobs.model import ExternalOutcome

_TRACER: Final = "celery.app.trace"
_RESULTS: Final = "celery.result"
_THROWS: Final = frozenset({"maybe_throw", "throw"})
"""Methods of results that raise the exception of a task that failed."""
ETA_ERROR_ENDS_RUN: Final = VERSION[:2] >= (5, 7)
"""Whether a message whose ETA can't be converted fails; before, Celery rejects it, and runs it."""


class EndedRun(NamedTuple):
    """A run that has ended, and after which Celery cleans up or calls errbacks."""

    task: Any
    request: Any
    args: Any
    kwargs: Any
    state: str | None = None
    result: Any = None
    external: ExternalOutcome | None = None
    """Set where a worker's main process ends a run that could not report its end."""


_ending: Final[ContextVar[Callable[[], EndedRun] | None]] = ContextVar(
    "taskobs_ending", default=None
)


@contextmanager
def ending(run: Callable[[], EndedRun]) -> Generator[None]:
    """Have this be the run that a worker's main process ends meanwhile."""
    token = _ending.set(run)
    try:
        yield
    finally:
        _ending.reset(token)


def ending_request() -> Any:
    """Return the request of a run that a worker's main process ends; None if it ends none."""
    run = _ending.get()
    return None if run is None else run().request


def handles_failure() -> bool:
    """Tell whether Celery is handling the failure of a run: it calls errbacks meanwhile."""
    return any(True for _ in _variables_of("handle_failure"))


def ended_run() -> EndedRun | None:
    """Return the run that Celery cleans up after, or that a worker's main process ends.

    None where the variables of Celery's tracer have other names; they have these in 5.3 to 5.7.
    """
    for found in _variables_of("trace_task"):
        # A function of the same name calls this one, and has no request.
        if found.get("task_request") is not None and "task" in found:
            state, result = found.get("state"), found.get("retval")
            args, kwargs = found.get("args"), found.get("kwargs")
            return EndedRun(found["task"], found["task_request"], args, kwargs, state, result)
    run = _ending.get()
    return None if run is None else run()


def is_of_chord_header(error: BaseException) -> bool:
    """Tell whether a chord fails by the failure of a task in its header, which has an event."""
    frames = list(_functions(error.__traceback__))
    if isinstance(error, ChordError) or frames[-1:] == [(_RESULTS, "join_native")]:
        return True
    return any(module == _RESULTS and name in _THROWS for module, name in frames)


def _variables_of(function: str) -> Iterator[Mapping[str, Any]]:
    """Yield the variables of each call of a function of Celery's tracer that is under way."""
    frame = inspect.currentframe()
    while frame is not None:
        if (frame.f_globals.get("__name__"), frame.f_code.co_name) == (_TRACER, function):
            yield frame.f_locals
        frame = frame.f_back


def _functions(traceback: TracebackType | None) -> Iterator[tuple[str, str]]:
    while traceback is not None:
        frame = traceback.tb_frame
        yield str(frame.f_globals.get("__name__")), frame.f_code.co_name
        traceback = traceback.tb_next
