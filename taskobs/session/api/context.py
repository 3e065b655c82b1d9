"""``taskobs.context`` and ``taskobs.set_context``: values for all that follows."""

from __future__ import annotations

import sys
from collections.abc import Generator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Final

from taskobs.celery.active import current_run
from taskobs.celery.adapter.outcomes import PASSING
from taskobs.config.context_checks import problem_of
from taskobs.errors import ContextError
from taskobs.internal.guard import Guard
from taskobs.model import ContextValue, ContextValues
from taskobs.observers.context import values as context_values

_API: Final = "opentelemetry.trace"
_guard: Final = Guard(passing=PASSING)

_Given = Mapping[str, ContextValue | None]


def context(**values: ContextValue | None) -> AbstractContextManager[None]:
    """Give values to everything in a ``with`` block, and to the tasks that follow from it.

    They are on the spans of publishes and runs, on Sentry's events as tags (``user_id`` also as
    the user), and on log records. They travel with each message, and from task to task. A value is
    a string, a number or a boolean; None takes away what an outer block has set.

    Raises:
        ContextError: a key or a value that can't be recorded.
    """
    return _block(_checked(values))


def set_context(**values: ContextValue | None) -> None:
    """Give values to everything from here to the end of the run, or of the ``with`` block around.

    Outside of both they hold in this thread, greenlet or asyncio task: in the current trace, such
    as that of a request, or without one until they are set anew. The current span gets them, too.
    See ``context``.

    Raises:
        ContextError: a key or a value that can't be recorded.
    """
    run, given = current_run(), _checked(values)
    now = context_values.merged(context_values.values_of(run), given)
    context_values.put(run, now, context_values.current_trace() if run is None else 0)
    with _guard:
        _describe_current_span({name: now[name] for name in given if name in now})


@contextmanager
def _block(given: _Given) -> Generator[None]:
    run = current_run()
    values = context_values.merged(context_values.values_of(run), given)
    token = context_values.put(run, values)
    try:
        yield
    except BaseException as error:
        with _guard:  # an exception of the app's own may refuse an attribute
            context_values.note_left(error, run)
        raise
    finally:
        # Not so for a block that was never left, and is closed when its generator is collected.
        if current_run() is run:
            context_values.restore(run, token)


def _describe_current_span(values: ContextValues) -> None:
    # Not imported for this: a process that has not imported it has no spans.
    current: Any = getattr(sys.modules.get(_API), "get_current_span", None)
    if current is not None and values:
        current().set_attributes(values)


def _checked(values: _Given) -> dict[str, ContextValue | None]:
    return {name: _value(name, value) for name, value in values.items()}


def _value(name: str, value: object) -> ContextValue | None:
    problem = problem_of(name)
    if problem is not None:
        raise ContextError(name, problem, 'taskobs.context(tenant="acme")')
    # By its type, as a proxy may claim to be an instance of what it stands for.
    if value is not None and not issubclass(type(value), (str, int, float)):
        raise ContextError(
            name,
            f"has a value of {type(value)}, which is no string, number or boolean",
            f"taskobs.context({name}=str(...))",
        )
    return context_values.plain(value)
