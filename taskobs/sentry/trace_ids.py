"""The trace of Sentry's events: that of OpenTelemetry's span, so that each leads to the other."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from types import TracebackType
from typing import Final

import sentry_sdk
from opentelemetry import trace
from opentelemetry.trace import Span, SpanContext
from sentry_sdk.scope import Scope

from taskobs.observers import outer_trace
from taskobs.observers.sentry import redact
from taskobs.sentry import _compat

TRANSACTION: Final = "transaction"


class RequestTrace:
    """The trace that Sentry has for a request, or another unit of work in this process."""

    def __init__(self) -> None:
        self.renew()

    def renew(self) -> None:
        """Note the scope and the trace of the process itself, which are those of no request."""
        self._scope = Scope.get_isolation_scope()
        self._trace = self._scope.get_active_propagation_context()

    def ids(self) -> tuple[str, str] | None:
        """Return the trace id and the span id, None outside of requests."""
        scope = Scope.get_isolation_scope()
        current = scope.get_active_propagation_context()
        if current is self._trace or not self._is_request(scope, current):
            return None
        return outer_trace.read(sentry_sdk.get_traceparent())

    def _is_request(self, scope: Scope, current: object) -> bool:
        # Integrations of web frameworks name the scope; a trace with a parent came with a request.
        if _compat.scope_name(scope) or getattr(current, "parent_span_id", None):
            return True
        # In other threads, a scope without a name may be that of a thread for all of its life.
        return scope is not self._scope and threading.current_thread() is threading.main_thread()


def current_span_ids() -> tuple[str, str] | None:
    """Return the trace id and the span id of OpenTelemetry's current span, if there is one."""
    return _ids(trace.get_current_span().get_span_context())


def span_of(error: BaseException | None) -> SpanContext | None:
    """Return the context of the current span, or of the one that an exception has left."""
    current = trace.get_current_span().get_span_context()
    return current if current.is_valid else _left_span(error)


def link(event: dict[str, object], error: BaseException | None) -> None:
    """Put an event on OpenTelemetry's current span, or on the one that its exception has left."""
    if event.get("type") == TRANSACTION:
        return
    span = span_of(error)
    ids = None if span is None else _ids(span)
    if ids is None:
        return
    context = redact.part(redact.part(event, "contexts"), "trace")
    if context.get("trace_id") != ids[0]:
        for name in ("parent_span_id", "dynamic_sampling_context"):  # of another trace
            context.pop(name, None)
    elif "op" in context or sentry_sdk.get_current_span() is not None:
        return  # a span of the same trace already: our own capture's, or Sentry's
    context["trace_id"], context["span_id"] = ids


def _ids(context: SpanContext) -> tuple[str, str] | None:
    if not context.is_valid:
        return None
    return trace.format_trace_id(context.trace_id), trace.format_span_id(context.span_id)


def _left_span(error: BaseException | None) -> SpanContext | None:
    """Return the context of the outermost span whose code the exception has passed through.

    Sentry's ASGI middleware is outside of OpenTelemetry's: when it sees the exception of a request,
    the request's span is no longer current. But the frames of the traceback have it in a variable.
    """
    for span in _spans(None if error is None else error.__traceback__):
        context = span.get_span_context()
        if context.is_valid:
            return context
    return None


def _spans(traceback: TracebackType | None) -> Iterator[Span]:
    while traceback is not None:
        for value in list(traceback.tb_frame.f_locals.values()):
            if isinstance(value, Span):
                yield value
        traceback = traceback.tb_next
