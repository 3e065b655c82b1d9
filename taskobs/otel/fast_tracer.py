"""A tracer that starts ``FastSpan``s where they record the same as the SDK's spans."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final, cast

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.trace import SpanLimits, Tracer
from opentelemetry.sdk.trace.sampling import Sampler
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import (
    INVALID_SPAN_CONTEXT,
    Link,
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    TraceFlags,
    TraceState,
)

from taskobs.observers.deferred_attributes import Describe
from taskobs.otel._sdk_compat import is_switched_on
from taskobs.otel.fast_spans import FastSpan, clean
from taskobs.protocol.span_encoder import ATTRIBUTES

if TYPE_CHECKING:
    from taskobs.otel.fast_provider import FastSpanProvider, WatchedProcessors
    from taskobs.otel.held.sampler import HoldingSampler

_SAMPLED: Final = 0x01
_RANDOM: Final[int] = getattr(TraceFlags, "RANDOM_TRACE_ID", 0)
_FLAGS: Final = tuple(map(TraceFlags, range(4)))
_STATE: Final = 4
"""Where a span's context, a tuple, has its trace state."""
_NO_STATE: Final = INVALID_SPAN_CONTEXT[_STATE]
"""The one of nearly all contexts: asking it for its length takes two calls."""
_CONTEXT_IS_KNOWN: Final = INVALID_SPAN_CONTEXT == (0, 0, False, 0, _NO_STATE, False)
"""Whether a span's context is the tuple that is made and read here."""
_MAX_TRACE_ID: Final = 2**128 - 1
_MAX_SPAN_ID: Final = 2**64 - 1
_new: Final = cast("Callable[..., Any]", tuple.__new__)  # pyright: ignore[reportUnknownMemberType]
_DESCRIBED: Final = 64
"""The attribute limit must be at least this: spans of tasks have fewer attributes."""
BOTH: Final = (True, True)


class FastSpanTracer(Tracer):
    """A tracer that starts fast spans where they record the same as the SDK's.

    It is an SDK tracer whose class was changed, so the SDK keeps its reference to it.
    """

    fast_provider: FastSpanProvider
    fast_processors: WatchedProcessors
    fast_scope: InstrumentationScope
    fast_scope_row: object
    fast_limits: SpanLimits
    fast_room: int
    """The most attributes that a span may have; 0 if values may be cut."""
    fast_event_room: int
    fast_event_attribute_room: int
    fast_sampler: Sampler
    """The sampler, if it only ever drops a span, or records and samples it."""
    fast_follows_parents: bool
    fast_can_be_off: bool
    fast_root: int | None
    """The decision for every span without a parent; None if it varies."""
    fast_holding: HoldingSampler | None
    """What marks the spans that are recorded though they are not sampled."""

    def start_span(  # noqa: PLR0913, PLR0917  # as the SDK's
        self,
        name: str,
        context: Context | None = None,
        kind: SpanKind = SpanKind.INTERNAL,
        attributes: Any = None,  # noqa: ANN401  # its type has another name in each release
        links: Sequence[Link] | None = (),
        start_time: int | None = None,
        record_exception: bool = True,  # noqa: FBT001, FBT002
        set_status_on_exception: bool = True,  # noqa: FBT001, FBT002
        **more: Any,  # noqa: ANN401  # of a later release
    ) -> trace.Span:
        """Start a span."""
        span_sink = None if links or more else self.fast_processors.span_sink
        span = None
        if span_sink is not None:
            parent = trace.get_current_span(context).get_span_context()
            span = self._start_fast(name, context, parent, kind, attributes, start_time)
        if span_sink is None or span is None:
            flags = record_exception, set_status_on_exception
            return self.start_sdk_span(
                name, context, kind, attributes, links, start_time, *flags, **more
            )
        if type(span) is FastSpan:
            if not (record_exception and set_status_on_exception):
                span.fast_flags = record_exception, set_status_on_exception
            cleaned = clean(attributes, self.fast_limits) if attributes else None
            if cleaned is None and attributes:
                span.complete(attributes)
                self.fast_processors.on_start(span, context)
                return span
            if cleaned is not None:
                span.fast_row[ATTRIBUTES] = cleaned
            span_sink.fast_span_started(span)
        return span

    def start_described(  # noqa: PLR0913, PLR0917  # as the SDK's, and the parent
        self,
        name: str,
        context: Context | None,
        parent: SpanContext,
        kind: SpanKind,
        describe: Describe,
        start_time: int | None,
    ) -> trace.Span | None:
        """Start a span with unchecked attributes, if it is sampled; None if it can't be fast.

        ``parent`` is the span of the ``context``.
        """
        span_sink = self.fast_processors.span_sink
        if span_sink is None or self.fast_room < _DESCRIBED:
            return None
        span = self._start_fast(name, context, parent, kind, None, start_time)
        if type(span) is FastSpan:
            span.fast_row[ATTRIBUTES] = describe()
            span_sink.fast_span_started(span)
        return span

    def start_sdk_span(self, *args: Any, **named: Any) -> trace.Span:  # noqa: ANN401  # the SDK's
        """Start a span as the SDK does."""
        # When another provider replaces ours, our tracers get its ``start_span`` as an attribute.
        start = vars(self).get("start_span", super().start_span)
        span: trace.Span = start(*args, **named)
        return span

    def _start_fast(  # noqa: PLR0913, PLR0917  # as above
        self,
        name: str,
        context: Context | None,
        parent: SpanContext,
        kind: SpanKind,
        attributes: Any,  # noqa: ANN401  # see above
        start_time: int | None,
    ) -> trace.Span | None:
        """Return a span, unreported, or a non-recording one; None: the SDK must start it."""
        if (
            type(parent) is not SpanContext
            or type(parent[_STATE]) is not TraceState
            or not _CONTEXT_IS_KNOWN
            or type(kind) is not SpanKind
            or self.sampler is not self.fast_sampler
            or (self.fast_can_be_off and not is_switched_on(self))
        ):
            return None
        # In the SDK's order: an id generator or a sampler may depend on the number of calls.
        ids: Any = self.id_generator
        state: TraceState
        trace_id, parent_id, remote, flags, state, valid = parent
        if valid:
            sampled = flags & _SAMPLED if self.fast_follows_parents else None
        else:
            state, sampled = _NO_STATE, self.fast_root
            trace_id = ids.generate_trace_id()
            flags = _FLAGS[_RANDOM if getattr(ids, "is_trace_id_random", bool)() else 0]
        if sampled is None:
            result: Any = self.sampler.should_sample(context, trace_id, name, kind, attributes, ())
            sampled = int(result.decision.is_sampled())
            state = _NO_STATE if result.trace_state is None else result.trace_state
        span_id = ids.generate_span_id()
        flags = _FLAGS[sampled | flags & _RANDOM]
        is_valid = 0 < trace_id <= _MAX_TRACE_ID and 0 < span_id <= _MAX_SPAN_ID
        own = _new(SpanContext, (trace_id, span_id, False, flags, state, is_valid))
        mark = None
        if not sampled:
            holding = self.fast_holding
            mark = None if holding is None else holding.mark(own, parent, kind, name)
            if mark is None:
                return NonRecordingSpan(own)
        span = object.__new__(FastSpan)
        span.fast_tracer = self
        span.fast_context = own
        span.fast_parent = parent if valid else None
        span.fast_flags, span.fast_start = BOTH, None
        trace_bytes, span_bytes = trace_id.to_bytes(16, "big"), span_id.to_bytes(8, "big")
        span.fast_key = trace_bytes + span_bytes
        if start_time is None:
            began, span.fast_ticks = time.time_ns(), time.monotonic_ns()
        else:  # the caller's clock, so it ends by the wall clock, too
            began, span.fast_ticks = start_time, 0
        span.fast_row = [
            name,
            trace_bytes,
            span_bytes,
            parent_id.to_bytes(8, "big") if valid else None,
            remote if valid else False,
            flags,
            "" if state is _NO_STATE or not state else state.to_header(),
            kind._value_,
            began,
            None,
            {},
            [],
            (),
            0,
            None,
            self.fast_scope_row,
            0,
            0,
            0,
        ]
        if mark is not None:
            span.fast_row += mark
        return span
