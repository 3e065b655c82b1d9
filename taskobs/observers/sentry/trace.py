"""Sentry's trace in message headers and in the scope of a run, as Sentry's own integration has it.

A run's trace is that of its span; without spans it is the one that the message carries, in
``sentry-trace`` or else in ``traceparent``; without either it is a new one. A message carries the
trace of the current span, or else the trace that Sentry has at the moment.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final, cast
from uuid import uuid4

from opentelemetry import trace

from taskobs import semconv
from taskobs.model import Publish, Run
from taskobs.observers import outer_trace
from taskobs.observers.base import Observer

if TYPE_CHECKING:
    from sentry_sdk.scope import Scope

_BAGGAGE: Final = "baggage"
_TRACEPARENT: Final = "traceparent"
_PROPAGATE: Final = "sentry-propagate-traces"
"""Sentry's way to leave one message without a trace: a header that is not sent."""
_NESTED: Final = "headers"
"""Where Sentry's own integration looks for headers: a dict in a message's headers."""
_SENTRY_MEMBER: Final = "sentry-"
_BAGGAGE_BYTES: Final = 8192
_IDS: Final = slice(3, 52)
"""Where a ``traceparent`` has its two ids, with a hyphen between: all of a ``sentry-trace``."""
_W3C_FORM: Final = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}")


def enter(scope: Scope, run: Run, *, own_trace: bool = False) -> None:
    """Make a scope's trace that of a run; an eager run without a span stays in its caller's.

    With ``own_trace`` a run without a span does not continue the trace of its message.
    """
    if run.span is not None:
        _continue(scope, run.span.trace_id, run.span.span_id)
        # The run's own span, so that what a thread of the run captures is on it too.
        current: Any = scope.get_active_propagation_context()
        current.span_id, current.parent_span_id = run.span.span_id, None
    elif not run.eager:
        carried = None if own_trace else _carried(run.headers)
        if carried is None:
            scope.set_new_propagation_context()
        else:
            _continue(scope, *carried, baggage=run.headers.get(_BAGGAGE))


def write(publish: Publish) -> None:
    """Write the trace into the headers of a message."""
    headers = publish.headers
    if _PROPAGATE in headers and not headers.pop(_PROPAGATE):
        return
    address, baggage = publish.traceparent, None
    if address is not None:  # the ids are written out already, as nearly always
        sentry_trace = address[_IDS]
    elif (span := trace.get_current_span().get_span_context()).is_valid:
        sentry_trace = f"{span.trace_id:032x}-{span.span_id:016x}"
    elif publish.schedule is not None:  # each tick of beat begins a trace
        sentry_trace = f"{uuid4().hex}-{uuid4().hex[16:]}"
    else:
        import sentry_sdk  # here: a span's trace is written without it

        sentry_trace, baggage = sentry_sdk.get_traceparent() or "", sentry_sdk.get_baggage()
    headers[semconv.HEADER_SENTRY_TRACE] = sentry_trace
    if address is not None and _BAGGAGE not in headers and _NESTED not in headers:
        return
    carried = {semconv.HEADER_SENTRY_TRACE: sentry_trace}
    if baggage is not None or _BAGGAGE in headers:
        members = _with_members(headers.pop(_BAGGAGE, None), baggage, sentry_trace[:32])
        if members:
            headers[_BAGGAGE] = carried[_BAGGAGE] = members
    # Never made here: a request of Celery 5.7 has the flat headers in `request.headers`, those of
    # the user too, unless there is a nested dict, which then hides them all.
    if isinstance(nested := headers.get(_NESTED), dict):
        headers[_NESTED] = {**cast("dict[str, object]", nested), **carried}


class PublishedTrace(Observer):
    """Writes the trace into messages as long as there is no client of Sentry's yet.

    The trace of a span can be written without one; for that of Sentry, ``begin`` makes one.
    """

    def __init__(self, begin: Callable[[], object]) -> None:
        self._begin = begin

    def sending(self, publish: Publish) -> None:
        """Write it into a message."""
        of_span = trace.get_current_span().get_span_context().is_valid
        if not of_span and publish.schedule is None:
            self._begin()
        write(publish)


def _continue(scope: Scope, trace_id: str, span_id: str, baggage: str | None = None) -> None:
    incoming = {semconv.HEADER_SENTRY_TRACE: f"{trace_id}-{span_id}"}
    if baggage:
        incoming[_BAGGAGE] = baggage
    scope.generate_propagation_context(incoming)


def _carried(headers: Mapping[str, str]) -> tuple[str, str] | None:
    """Return the trace id and the span id that a message carries."""
    ids = outer_trace.read(headers.get(semconv.HEADER_SENTRY_TRACE))
    if ids is None:
        found = _W3C_FORM.fullmatch(headers.get(_TRACEPARENT, ""))
        if found is not None and int(found[1], 16) and int(found[2], 16):
            return found[1], found[2]
    return ids


def _with_members(before: object, ours: str | None, trace_id: str) -> str | None:
    """Return a ``baggage`` with our members of Sentry's, and all members of others.

    Members of Sentry's that are there already stay if they are of the same trace.
    """
    if not isinstance(before, str):
        return ours
    if ours is None and (
        _SENTRY_MEMBER not in before or f"{_SENTRY_MEMBER}trace_id={trace_id}" in before
    ):
        return before
    others = [
        member.strip()
        for member in before.split(",")
        if member.strip() and not member.strip().startswith(_SENTRY_MEMBER)
    ]
    members = ([ours] if ours else []) + others
    while members and len(",".join(members)) > _BAGGAGE_BYTES:
        members.pop()
    return ",".join(members) or None
