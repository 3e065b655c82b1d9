"""Values that the app gives to what follows, such as a tenant: which of them hold where.

One context variable holds what was set in this thread, greenlet or asyncio task, together with the
run in which it was set. What belongs to another run than the current one is never looked at. So
nothing has to be cleared when a run begins, and a process that sets nothing pays nothing.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from contextvars import ContextVar, Token
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, cast

from taskobs.observers.context import state

if TYPE_CHECKING:  # the records take a third of what init() imports
    from taskobs.internal.exceptions.weak import Reference
    from taskobs.model import ContextValue, ContextValues, Run

_API: Final = "opentelemetry.trace"
TEXT_CHARS: Final = 200
"""What Sentry takes as the value of a tag."""
MOST: Final = 32
"""Values at one place; further ones are left out."""
_NONE: Final[ContextValues] = MappingProxyType({})
_INT_BITS: Final = 63
_CAUSES: Final = 10
"""How deep an exception's causes are followed: they may form a circle."""


class _Entry:
    """What was set here, in a run or outside of runs; never changed."""

    __slots__ = ("outer", "run", "trace", "values")

    def __init__(
        self, run: Run | None, values: ContextValues, trace: int, outer: _Entry | None
    ) -> None:
        self.run = run
        self.values = values
        self.trace = trace
        """The trace in which alone it holds; 0 if it ends otherwise, or was set outside of one."""
        self.outer = outer
        """What holds again after the run, if that is an eager one, or after the trace."""


class _Left:
    """An exception that has left a block, and the values that held where it was raised."""

    __slots__ = ("exception", "values")

    def __init__(self, exception: Reference, values: ContextValues) -> None:
        self.exception = exception
        self.values = values


_entries: Final[ContextVar[_Entry | None]] = ContextVar("taskobs_context", default=None)
_left: Final[ContextVar[_Left | None]] = ContextVar("taskobs_context_left", default=None)


def values_of(run: Run | None) -> ContextValues:
    """Return the values that hold here: in the run that is current here, or outside of runs."""
    entry = _entries.get()
    while entry is not None and not (entry.run is run and _holds(entry)):
        entry = entry.outer
    if entry is not None:
        return entry.values
    return _NONE if run is None else run.context or _NONE


def _holds(entry: _Entry) -> bool:
    """Tell whether what was set in a trace, such as that of a request, may hold here.

    A web server's thread serves one request after the other, and nobody says where one ends. An
    error may be reported when the span of its request has ended already, so no trace is any.
    """
    return entry.trace == 0 or current_trace() in {0, entry.trace}


def current_trace() -> int:
    """Return the id of the current trace, 0 for none."""
    # Not imported for this: a process that has not imported it has no spans.
    current: Any = getattr(sys.modules.get(_API), "get_current_span", None)
    return 0 if current is None else current().get_span_context().trace_id


def values_at(error: BaseException | None, run: Run | None) -> ContextValues:
    """Return the values that held where an exception was raised, beside those that hold here.

    By the time a failure is reported, the exception has left the blocks around it.
    """
    values, left = values_of(run), _left.get()
    if left is None or not _is_or_causes(left.exception, error):
        return values
    return merged(values, left.values)


def note_left(error: BaseException, run: Run | None) -> None:
    """Note that an exception leaves a block; the innermost one has the values of all."""
    from taskobs.internal.exceptions import weak  # no exception leaves a block in most processes

    left = _left.get()
    if left is None or not weak.refers_to(left.exception, error):
        _left.set(_Left(weak.reference(error), values_of(run)))


def _is_or_causes(reference: Reference, error: BaseException | None) -> bool:
    """Tell whether a reference is to an exception, or to what that was raised for."""
    from taskobs.internal.exceptions import weak

    for _ in range(_CAUSES):
        if error is None:
            return False
        if weak.refers_to(reference, error):
            return True
        error = error.__cause__ or error.__context__
    return False


def last_values_of(run: Run) -> ContextValues:
    """Return the values that a run has for a thread which works for it."""
    return run.context_now or run.context or _NONE


def put(run: Run | None, values: ContextValues, trace: int = 0) -> Token[_Entry | None]:
    """Have these values, and no others, hold here from now on; with ``trace``, only in that."""
    state.in_use = True
    outer = _entries.get()
    # What is replaced goes, and so does what was set in a former trace: the chain stays short.
    while outer is not None and outer.run is run and (outer.trace or not trace):
        outer = outer.outer
    if run is not None:
        run.context_now = values
    return _entries.set(_Entry(run, values, trace, outer))


def restore(run: Run | None, token: Token[_Entry | None]) -> None:
    """Undo a ``put``, and all that were made after it."""
    try:
        _entries.reset(token)
    except ValueError:
        return  # an asynchronous generator is closed in another context, where nothing was put
    if run is not None:
        run.context_now = values_of(run)


def forget(run: Run) -> None:
    """Drop what was set in a run that has ended, so that its record can be freed."""
    entry = _entries.get()
    while entry is not None and entry.run is not run:
        entry = entry.outer
    if entry is not None:
        _entries.set(entry.outer)


def merged(before: ContextValues, given: Mapping[str, ContextValue | None]) -> ContextValues:
    """Return values with others added; None takes one away."""
    found = {name: value for name, value in before.items() if name not in given}
    found.update((name, value) for name, value in given.items() if value is not None)
    return dict(list(found.items())[:MOST]) if len(found) > MOST else found


def plain(value: object) -> ContextValue | None:
    """Return a value as it is recorded; None for one that can't be, such as NaN.

    A text has at most 200 characters, all of them printable, so that it can neither begin a line
    of a log nor fail to be encoded. A number beyond 64 bits, which OTLP can't hold, is left out.
    """
    kind = type(value)  # not `isinstance`, as a proxy of werkzeug's claims to be what it stands for
    if issubclass(kind, str):
        text = str.__str__(cast("str", value))[:TEXT_CHARS]
        return text if text.isprintable() else "".join(map(_printable, text))
    if kind is bool:
        return cast("bool", value)
    if issubclass(kind, int):
        number = int.__int__(cast("int", value))
        return number if number.bit_length() <= _INT_BITS else None
    if issubclass(kind, float):
        real = float.__float__(cast("float", value))
        return real if math.isfinite(real) else None
    return None


def _printable(character: str) -> str:
    return character if character.isprintable() else "?"


def text_of(value: ContextValue) -> str:
    """Return a value as Sentry's tags and log records have it."""
    return str(value).lower() if isinstance(value, bool) else str(value)
