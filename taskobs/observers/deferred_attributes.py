"""Attributes that a span gets when it is known to be recorded, all at once."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final, cast

from opentelemetry.trace import Link, Span, SpanContext, SpanKind, Tracer

from taskobs.observers.attributes import Attributes, add

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import Span as SdkSpan
    from opentelemetry.sdk.trace import Tracer as SdkTracer

Describe = Callable[[], Attributes]
StartFast = Callable[
    [str, "Context | None", SpanContext, SpanKind, Describe, "int | None"],
    "Span | None",
]

_SDK: Final = "opentelemetry.sdk.trace"
_SAMPLERS: Final = "opentelemetry.sdk.trace.sampling"
_given: ContextVar[list[Describe] | None] = ContextVar("taskobs_describe", default=None)


class DeferredAttributes:
    """Describes the spans of a tracer after the sampler's decision, before all processors.

    The SDK checks and copies each attribute that it is given for a new span, which takes longer
    than the span itself; and what no sampler records need not be worked out. So this stands
    before the tracer's processors, until ``remove``. They see the same span as without it. Where
    the relay is all there is to see it, it is a light one.
    """

    def __init__(self, tracer: SdkTracer) -> None:
        self._tracer = tracer
        self._processors = tracer.span_processor
        # The SDK calls these too; some releases have only one of them.
        self.on_end = self._processors.on_end
        self._on_ending = getattr(self._processors, "_on_ending", None)
        self._start_fast: StartFast | None = getattr(tracer, "start_described", None)
        self._start: Callable[..., Span] = getattr(tracer, "start_sdk_span", tracer.start_span)

    @classmethod
    def install(cls, tracer: Tracer) -> DeferredAttributes | None:
        """Begin, if the tracer is the SDK's and its sampler decides by ids and parents alone."""
        sdk = sys.modules.get(_SDK)
        ours = hasattr(tracer, "start_described")
        if sdk is None or not (ours or type(tracer) is sdk.Tracer):
            return None
        known = cast("SdkTracer", tracer)
        if not _is_blind(known.sampler):
            return None
        made = cls(known)
        known.span_processor = cast("Any", made)
        return made

    def remove(self) -> None:
        """Let the tracer do without."""
        if cast("object", self._tracer.span_processor) is self:
            self._tracer.span_processor = self._processors

    def start_span(  # noqa: PLR0913  # as the SDK's
        self,
        name: str,
        context: Context | None,
        parent: SpanContext,
        kind: SpanKind,
        describe: Describe,
        *,
        links: Sequence[Link] = (),
        start_time: int | None = None,
    ) -> Span:
        """Start a span below its ``context``'s, the ``parent``; describe it if it is recorded."""
        if self._start_fast is not None and not links:
            span = self._start_fast(name, context, parent, kind, describe, start_time)
            if span is not None:
                return span
        given = [describe]
        _given.set(given)
        try:
            return self._start(name, context, kind, None, links, start_time)
        finally:
            given.clear()

    def on_start(self, span: SdkSpan, parent_context: Context | None = None) -> None:
        """Describe a span that starts, then tell the processors."""
        given = _given.get()
        if given:
            describe = given.pop()  # not for a span that a processor starts
            add(span, describe())
        self._processors.on_start(span, parent_context=parent_context)


def _is_blind(sampler: object) -> bool:
    """Tell samplers of the SDK, which look at no attribute, if all that they ask are such too."""
    return type(sampler).__module__ == _SAMPLERS and all(
        _is_blind(part) for part in vars(sampler).values() if hasattr(part, "should_sample")
    )
