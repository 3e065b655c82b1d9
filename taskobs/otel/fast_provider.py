"""A tracer provider whose tracers start ``FastSpan``s while a relay is all that hears of them.

The provider, its tracers and its processors are the SDK's classes with a method or two of their
own. Where a release of the SDK, or a library that has patched it, does something that a fast span
does not, the tracers stay the SDK's.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterable
from types import FunctionType
from typing import Any, Final

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk import trace as sdk
from opentelemetry.sdk.trace import (
    ReadableSpan,
    Span,
    SpanLimits,
    SynchronousMultiSpanProcessor,
    Tracer,
    TracerProvider,
)
from opentelemetry.sdk.trace.sampling import (
    ALWAYS_OFF,
    ALWAYS_ON,
    DEFAULT_OFF,
    DEFAULT_ON,
    ParentBasedTraceIdRatio,
    TraceIdRatioBased,
)
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext

from taskobs.otel._sdk_compat import can_be_switched_off
from taskobs.otel.fast_spans import FastSpan, SpanSink
from taskobs.otel.fast_tracer import BOTH, FastSpanTracer
from taskobs.protocol.span_encoder import scope_row

_log: Final = logging.getLogger("taskobs")
_COUNTS_ITS_SPANS: Final = hasattr(sdk, "TracerMetrics")  # in 1.40 and 1.41
_INTERNAL_METRICS: Final = "OTEL_PYTHON_SDK_INTERNAL_METRICS_ENABLED"  # since 1.42


class WatchedProcessors(SynchronousMultiSpanProcessor):
    """A provider's processors, and who takes fast spans in their place.

    That is the case as long as there is one processor, which was added through the provider.
    """

    span_sink: SpanSink | None = None
    changes = 0

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # the SDK's
        self.after_start = _AfterStart(self)
        vars(self)["changes"] = 0

    def __setattr__(self, name: str, value: object) -> None:
        # The SDK assigns a new tuple for each processor that is added, and so do libraries that
        # put theirs where the SDK keeps them.
        vars(self).update(span_sink=None, changes=self.changes + 1)
        super().__setattr__(name, value)

    def route_to(self, span_sink: SpanSink | None) -> None:
        """Have fast spans taken by a sink, if it stands for the only processor."""
        if self.changes == 1:
            vars(self)["span_sink"] = span_sink
        if self.changes != 1:  # another thread has added one meanwhile
            vars(self)["span_sink"] = None


class _AfterStart:
    """The processors of a span that they have been shown at its start."""

    def __init__(self, processors: WatchedProcessors) -> None:
        self._processors = processors

    def on_start(self, span: Span, parent_context: Context | None = None) -> None: ...

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401  # each release has methods of its own
        return getattr(self._processors, name)


class FastSpanProvider(TracerProvider):
    """A provider whose tracers start fast spans as long as a sink is all that hears of them."""

    def __init__(
        self,
        *,
        span_limits: SpanLimits | None = None,
        **options: Any,  # noqa: ANN401  # the SDK's
    ) -> None:
        self.fast_processors = WatchedProcessors()
        self.fast_limits = span_limits or SpanLimits()
        super().__init__(
            span_limits=self.fast_limits, active_span_processor=self.fast_processors, **options
        )

    def route_to(self, span_sink: SpanSink | None) -> None:
        """Have fast spans taken by a sink, if there are no other processors; None: by nobody."""
        self.fast_processors.route_to(span_sink)

    def get_tracer(
        self,
        instrumenting_module_name: str,
        instrumenting_library_version: str | None = None,
        schema_url: str | None = None,
        attributes: Any = None,  # noqa: ANN401  # its type has another name in each release
        **more: Any,  # noqa: ANN401  # of a later release
    ) -> trace.Tracer:
        """Return a tracer."""
        name, version = instrumenting_module_name, instrumenting_library_version
        tracer = super().get_tracer(name, version, schema_url, attributes, **more)
        if type(tracer) is Tracer and not more and self._can_be_fast(tracer):
            scope = InstrumentationScope(name or "", version or "", schema_url, attributes)
            try:
                self._make_fast(tracer, scope)
            except Exception as error:  # noqa: BLE001  # a later release, or a patched one
                tracer.__class__ = Tracer
                _log.debug("taskobs: this SDK's spans can't be made faster: %r", error)
        return tracer

    def _can_be_fast(self, tracer: Tracer) -> bool:
        return (
            tracer.span_processor is self.fast_processors
            and _drops_or_samples(tracer.sampler)
            and not _COUNTS_ITS_SPANS
            and os.environ.get(_INTERNAL_METRICS, "").strip().lower() != "true"
            and all(map(_is_the_sdks, _not_called()))
        )

    def _make_fast(self, tracer: Any, scope: InstrumentationScope) -> None:  # noqa: ANN401  # in between
        """Make a tracer of the SDK's one that starts fast spans."""
        limits, sampler = self.fast_limits, tracer.sampler
        tracer.fast_provider, tracer.fast_processors = self, self.fast_processors
        tracer.fast_scope, tracer.fast_scope_row = scope, scope_row(scope)
        tracer.fast_limits = limits
        tracer.fast_room = _room(limits.max_span_attributes, limits.max_span_attribute_length)
        tracer.fast_event_room = _room(limits.max_events)
        tracer.fast_event_attribute_room = _room(
            limits.max_event_attributes, limits.max_attribute_length
        )
        tracer.fast_sampler, tracer.fast_follows_parents = sampler, _follows_parents(sampler)
        tracer.fast_root = _root_decision(sampler)
        tracer.fast_can_be_off = can_be_switched_off(tracer)
        tracer.__class__ = FastSpanTracer
        _try_out(tracer)


def _room(most: int | None, length: int | None = None) -> int:
    if length is not None:
        return 0
    return sys.maxsize if most is None else most


# Samplers are compared by identity: one of another class may have an ``==`` of its own.


def _drops_or_samples(sampler: object) -> bool:
    """Tell samplers whose decisions are known to be one of these two.

    Others may record a span without sampling it, or depend on what only the SDK tells them.
    """
    return (
        sampler is ALWAYS_ON
        or sampler is ALWAYS_OFF
        or type(sampler) is TraceIdRatioBased
        or _follows_parents(sampler)
    )


def _follows_parents(sampler: object) -> bool:
    """Tell samplers that do as a span's parent did: a ``ParentBased`` may have been told not to."""
    return (
        sampler is DEFAULT_ON or sampler is DEFAULT_OFF or type(sampler) is ParentBasedTraceIdRatio
    )


def _root_decision(sampler: object) -> int | None:
    if sampler is ALWAYS_ON or sampler is DEFAULT_ON:
        return 1
    return 0 if sampler is ALWAYS_OFF or sampler is DEFAULT_OFF else None


def _not_called() -> Iterable[object]:
    """Return what is not called for a fast span."""
    return (Span.__init__, Span.start, Span.end, ReadableSpan.__init__, Tracer.start_span)


def _is_the_sdks(function: object) -> bool:
    """Tell whether a function is the SDK's own: some libraries put another in its place."""
    code = getattr(function, "__code__", None)
    return type(function) is FunctionType and code.co_filename == sdk.__file__  # type: ignore[union-attr]


def _try_out(tracer: FastSpanTracer) -> None:
    """Make the SDK's fields of a span; raise if this release of the SDK makes them otherwise."""
    span = object.__new__(FastSpan)
    span.fast_tracer, span.fast_parent, span.fast_flags = tracer, None, BOTH
    span.fast_context = SpanContext(1, 1, is_remote=False)
    span.fast_row = ["x", b"", b"", None, False, 0, "", 0, 1, None, {}, [], (), 0, None]
    span.complete()
    if (span.name, span.start_time, span.is_recording()) != ("x", 1, True):
        raise TypeError("a span's fields are not what it was made with")
