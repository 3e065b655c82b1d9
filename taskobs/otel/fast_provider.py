"""A tracer provider whose tracers start ``FastSpan``s while a sink of ours is their only receiver.

The provider, its tracers and its processors are the SDK's classes with a method or two of their
own. Where a release of the SDK, or a library that has patched it, does something that fast spans
don't, the provider gives out the SDK's own tracers.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterable
from types import FunctionType, ModuleType
from typing import Any, Final, Protocol

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
    Sampler,
    TraceIdRatioBased,
)
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext

from taskobs.internal.samplers import deciding
from taskobs.otel._sdk_compat import can_be_switched_off
from taskobs.otel.fast_spans import FastSpan
from taskobs.otel.fast_tracer import BOTH, FastSpanTracer
from taskobs.protocol.span_encoder import scope_row

_log: Final = logging.getLogger("taskobs")
_COUNTS_ITS_SPANS: Final = hasattr(sdk, "TracerMetrics")  # in 1.40 and 1.41
_INTERNAL_METRICS: Final = "OTEL_PYTHON_SDK_INTERNAL_METRICS_ENABLED"  # since 1.42


class SpanSink(Protocol):
    """Receives fast spans."""

    def fast_span_started(self, span: FastSpan) -> object:
        """Receive a span that has started."""

    def fast_span_ended(self, span: FastSpan, *, again: bool = False) -> object:
        """Receive a span that has ended; its row holds all of it.

        ``again`` says that an exception may have interrupted the first call, as a soft time
        limit's signal does.
        """


class WatchedProcessors(SynchronousMultiSpanProcessor):
    """A provider's processors, and the sink that fast spans go to instead.

    A sink is used while there is exactly one processor, which was added through the provider.
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
        """Send fast spans to a sink, if it represents the only processor."""
        if self.changes == 1:
            vars(self)["span_sink"] = span_sink
        if self.changes != 1:  # another thread added a processor meanwhile
            vars(self)["span_sink"] = None


class _AfterStart:
    """The processors for a span whose start they have already been told of."""

    def __init__(self, processors: WatchedProcessors) -> None:
        self._processors = processors

    def on_start(self, span: Span, parent_context: Context | None = None) -> None: ...

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401  # each release has methods of its own
        return getattr(self._processors, name)


class FastSpanProvider(TracerProvider):
    """A provider whose tracers start fast spans while a sink is their only receiver."""

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
        """Send fast spans to a sink, if there is no other processor; None: make none."""
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
            and _drops_or_samples(deciding(tracer.sampler))
            and not has_internal_metrics()
            and all(is_of(sdk, function) for function in _not_called())
        )

    def _make_fast(self, tracer: Any, scope: InstrumentationScope) -> None:  # noqa: ANN401  # in between
        """Change a tracer of the SDK into one that starts fast spans."""
        limits = self.fast_limits
        tracer.fast_provider, tracer.fast_processors = self, self.fast_processors
        tracer.fast_scope, tracer.fast_scope_row = scope, scope_row(scope)
        tracer.fast_limits = limits
        tracer.fast_room = _room(limits.max_span_attributes, limits.max_span_attribute_length)
        tracer.fast_event_room = _room(limits.max_events)
        tracer.fast_event_attribute_room = _room(
            limits.max_event_attributes, limits.max_attribute_length
        )
        use_sampler(tracer, tracer.sampler)
        tracer.fast_can_be_off = can_be_switched_off(tracer)
        tracer.__class__ = FastSpanTracer
        _try_out(tracer)


def use_sampler(tracer: Any, sampler: Sampler) -> None:  # noqa: ANN401  # either class
    """Have a tracer decide by a sampler; a fast one starts the SDK's spans with some samplers."""
    tracer.sampler, decides = sampler, deciding(sampler)
    if _drops_or_samples(decides):  # else it is not the ``fast_sampler``, which a fast span needs
        tracer.fast_sampler, tracer.fast_follows_parents = sampler, _follows_parents(decides)
        tracer.fast_root = _root_decision(decides)
        tracer.fast_holding = None if decides is sampler else sampler


def _room(most: int | None, length: int | None = None) -> int:
    if length is not None:
        return 0
    return sys.maxsize if most is None else most


# Samplers are compared by identity: one of another class may have an ``==`` of its own.


def _drops_or_samples(sampler: object) -> bool:
    """Tell whether a sampler only ever drops a span, or records and samples it.

    Others may record a span without sampling it, or read what only the SDK passes to them.
    """
    return (
        sampler is ALWAYS_ON
        or sampler is ALWAYS_OFF
        or type(sampler) is TraceIdRatioBased
        or _follows_parents(sampler)
    )


def _follows_parents(sampler: object) -> bool:
    """Tell whether a sampler follows the parent's decision: ``ParentBased`` may not."""
    return (
        sampler is DEFAULT_ON or sampler is DEFAULT_OFF or type(sampler) is ParentBasedTraceIdRatio
    )


def _root_decision(sampler: object) -> int | None:
    if sampler is ALWAYS_ON or sampler is DEFAULT_ON:
        return 1
    return 0 if sampler is ALWAYS_OFF or sampler is DEFAULT_OFF else None


def _not_called() -> Iterable[object]:
    """Return the SDK's functions that a fast span bypasses."""
    return (Span.__init__, Span.start, Span.end, ReadableSpan.__init__, Tracer.start_span)


def is_of(module: ModuleType, function: object) -> bool:
    """Tell whether a function is a module's own: some libraries patch those of the SDK."""
    code = getattr(function, "__code__", None)
    return type(function) is FunctionType and code.co_filename == module.__file__  # type: ignore[union-attr]


def has_internal_metrics() -> bool:
    """Tell whether the SDK counts its spans, which it can't do with those that bypass it."""
    return _COUNTS_ITS_SPANS or os.environ.get(_INTERNAL_METRICS, "").strip().lower() == "true"


class SdkField:
    """A field of the SDK's spans that a ``FastSpan`` has not made yet.

    Once it is in the span's ``__dict__``, Python finds it there. A ``__getattr__`` would do the
    same, but Python 3.11 and later can't read the attributes of its class at their usual speed.
    """

    def __init__(self, name: str) -> None:
        self._name = name

    def __get__(self, span: FastSpan, kind: object = None) -> Any:  # noqa: ANN401  # the SDK's
        span.complete()
        try:
            return vars(span)[self._name]
        except KeyError:
            raise AttributeError(self._name) from None

    @classmethod
    def install(cls, made: Span) -> None:
        """Add the fields that a span of the SDK has."""
        for name in vars(made):
            if not hasattr(Span, name):
                setattr(FastSpan, name, cls(name))


def _try_out(tracer: FastSpanTracer) -> None:
    """Make a span's SDK fields once; raises if this release of the SDK makes them differently."""
    span = object.__new__(FastSpan)
    span.fast_tracer, span.fast_parent, span.fast_flags = tracer, None, BOTH
    span.fast_context = SpanContext(1, 1, is_remote=False)
    span.fast_row = ["x", b"", b"", None, False, 0, "", 0, 1, None, {}, [], (), 0, None]
    SdkField.install(span.as_sdk_span())
    if (span.name, span.start_time, span.is_recording()) != ("x", 1, True):
        raise TypeError("a span's fields are not what it was made with")
