"""A block whose publishes are not traced."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import Final

from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags

from taskobs.internal import span_ids
from taskobs.observers import outer_trace

_NOT_SAMPLED: Final = 0xFF ^ TraceFlags.SAMPLED


class UntracedSpan(NonRecordingSpan):
    """The current span of such a block: a publish directly below it makes no span of its own."""


def is_untraced() -> bool:
    """Tell whether this is in such a block, and below no other span in it."""
    return type(trace.get_current_span()) is UntracedSpan


@contextmanager
def untraced() -> Generator[None]:
    """Make no spans of what is published in this block, of its runs, and of what those publish.

    Messages carry the trace all the same, as not sampled, so the events of failed runs have its id.
    Runs follow it where the worker's sampler follows the decision of a parent, as samplers do by
    default. For one thread or greenlet; also usable as a decorator.
    """
    span = UntracedSpan(_not_sampled(trace.get_current_span().get_span_context()))
    token = otel_context.attach(trace.set_span_in_context(span))
    try:
        yield
    finally:
        otel_context.detach(token)


def _not_sampled(current: SpanContext) -> SpanContext:
    if current.is_valid:
        flags = TraceFlags(current.trace_flags & _NOT_SAMPLED)
        ids, state = (current.trace_id, current.span_id), current.trace_state
        return SpanContext(*ids, is_remote=False, trace_flags=flags, trace_state=state)
    return SpanContext(*_new_ids(), is_remote=False, trace_flags=TraceFlags(TraceFlags.DEFAULT))


def _new_ids() -> tuple[int, int]:
    """Return the ids of the trace that Sentry has for the current request, or else new ones."""
    ids = next(filter(None, (source() for source in outer_trace.sources)), None)
    if ids is None:
        text = span_ids.choose()
        ids = text[: span_ids.TRACE_DIGITS], text[span_ids.TRACE_DIGITS :]
    return int(ids[0], 16), int(ids[1], 16)
