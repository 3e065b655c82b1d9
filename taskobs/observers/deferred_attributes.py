"""Attributes that a span gets once it is known to be recorded, all at once."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final, TypeAlias, cast

from opentelemetry.trace import Link, Span, SpanContext, SpanKind, Tracer

from taskobs.internal.samplers import deciding
from taskobs.model.attributes import Parts, whole
from taskobs.observers.attributes import Attributes, SetUnchecked, add, never

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import Span as SdkSpan
    from opentelemetry.sdk.trace import Tracer as SdkTracer

Describe: TypeAlias = "Callable[[], Attributes | Parts]"
"""Returns the attributes of a span, perhaps in two parts: see ``whole``."""
StartDescribed: TypeAlias = (
    "Callable[[str, Context | None, SpanContext, SpanKind, Describe, int | None], Span | None]"
)

_SDK: Final = "opentelemetry.sdk.trace"
_SAMPLERS: Final = "opentelemetry.sdk.trace.sampling"
_given: ContextVar[list[Describe] | None] = ContextVar("taskobs_describe", default=None)


class DeferredAttributes:
    """Describes the spans of a tracer after the sampler's decision, before all processors.

    The SDK checks and copies each attribute that it is given for a new span, which takes longer
    than the span itself; and what no sampler records need not be worked out. So this stands
    in front of the tracer's processors, until ``remove``. They see the same span as without it.
    """

    def __init__(self, tracer: SdkTracer, set_unchecked: SetUnchecked) -> None:
        self._tracer = tracer
        self._processors = tracer.span_processor
        self._set_unchecked = set_unchecked
        self._start: Callable[..., Span] = getattr(tracer, "start_sdk_span", tracer.start_span)
        self._start_described: StartDescribed | None = getattr(tracer, "start_described", None)

    @classmethod
    def install(
        cls, tracer: Tracer, set_unchecked: SetUnchecked = never
    ) -> DeferredAttributes | None:
        """Begin, if the tracer is the SDK's and its sampler decides by ids and parents alone.

        A tracer with a ``start_described`` does so by itself where it can; otherwise its
        ``start_sdk_span`` is called.
        """
        sdk = sys.modules.get(_SDK)
        fast = hasattr(tracer, "start_described")
        if sdk is None or not (fast or type(tracer) is sdk.Tracer):
            return None
        found = cast("SdkTracer", tracer)
        if not _is_blind(found.sampler):
            return None
        made = cls(found, set_unchecked)
        found.span_processor = cast("Any", made)
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
        if self._start_described is not None and not links:
            span = self._start_described(name, context, parent, kind, describe, start_time)
            if span is not None:
                return span
        given = [describe]
        token = _given.set(given)
        try:
            span = self._start(name, context, kind, None, links, start_time)
        finally:
            _given.reset(token)
        # The SDK has not called this object's ``on_start`` if the span is of another provider,
        # to which the tracer leads since ours was replaced.
        if given and span.is_recording():
            add(span, whole(describe()), self._set_unchecked)
        return span

    def on_start(self, span: SdkSpan, parent_context: Context | None = None) -> None:
        """Describe a span that starts, then show it to the processors."""
        given = _given.get()
        if given:
            describe = given.pop()  # taken off, as a processor may start a span, too
            attributes = whole(describe())
            if not self._set_unchecked(span, attributes):
                span.set_attributes(attributes)
        self._processors.on_start(span, parent_context=parent_context)

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401  # the SDK's, in each release others
        found = getattr(self._processors, name)
        setattr(self, name, found)  # so that the next span finds it at once
        return found


def _is_blind(sampler: object) -> bool:
    """Tell samplers of the SDK, which look at no attribute, if all that they ask are such too."""
    decides = deciding(sampler)
    return type(decides).__module__ == _SAMPLERS and all(
        _is_blind(part) for part in vars(decides).values() if hasattr(part, "should_sample")
    )
