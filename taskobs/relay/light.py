"""The SDK's tracers and spans, with less work where the relay is all that hears of them.

A span of the SDK's is made with a lock, two lists, and checks of what it was given; it is copied
at its end; and each processor is called at both. A light one is made with what it says alone;
the rest is made when somebody asks for it. To whoever looks it is as any other.
"""

# What is put off is what the SDK's spans keep in private names.
# pyright: reportPrivateUsage=false, reportIncompatibleVariableOverride=false
# ruff: noqa: SLF001

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Final, Protocol, cast

from opentelemetry import trace
from opentelemetry.attributes import BoundedAttributes
from opentelemetry.context import Context
from opentelemetry.sdk import trace as sdk
from opentelemetry.sdk.trace import (
    ReadableSpan,
    Span,
    SpanLimits,
    SpanProcessor,
    Tracer,
    TracerProvider,
)
from opentelemetry.sdk.trace.sampling import Decision, ParentBased, StaticSampler
from opentelemetry.trace import Link, NonRecordingSpan, SpanContext, SpanKind, TraceFlags
from opentelemetry.util.types import AttributeValue

from taskobs.relay.packing import (
    ATTRIBUTES,
    DROPPED_ATTRIBUTES,
    START_NS,
    scope_row,
    state_text,
)

Attributes = dict[str, AttributeValue]

_SAMPLED: Final = 0x01
_RANDOM: Final[int] = getattr(TraceFlags, "RANDOM_TRACE_ID", 0)
_FLAGS: Final = tuple(map(TraceFlags, range(4)))
_ROOM: Final = 64
"""Attributes that a span must be allowed to have, to be described: those of tasks have fewer."""
_SCOPES: Final = 1_000
_log: Final = logging.getLogger("taskobs")
_CAN_BE_OFF: Final = hasattr(Tracer, "_is_enabled")
_OWN: Final = frozenset({"_name", "_context", "_kind", "_parent", "_start_time"})
_LATE: Final = frozenset({"_lock", "_attributes", "_events", "_links"})
_COMMON: Final = frozenset(
    {
        *("_instrumentation_info", "_instrumentation_scope", "_resource", "_sampler", "_limits"),
        *("_span_processor", "_end_time", "_status", "_trace_config", "_record_exception"),
        *("_set_status_on_exception", "_record_end_metrics"),
    }
)


class Sink(Protocol):
    """Takes light spans."""

    def light_started(self, span: LightSpan) -> object:
        """Take a span that has started."""

    def light_ended(self, span: LightSpan) -> object:
        """Take a span that has ended without an event, a link or a status; and its fact."""

    def carried(self, fact: bytes) -> object:
        """Take the fact of a span that goes another way."""


class Way:
    """Where the light spans of a provider go; None as long as they go the SDK's way."""

    sink: Sink | None = None


class LightSpan(Span):
    """A span that makes its lock and its lists when somebody asks for them.

    What all spans of a tracer have in common is said once, in a class of their own.
    """

    if TYPE_CHECKING:
        _end_time: int | None

    way: ClassVar[Way]
    key: bytes
    row: list[Any]
    """What it is packed as; its attributes as long as nobody has asked for them."""
    fact: bytes | None = None
    """What is told with its end; see ``carry``."""

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401  # of what is not there yet
        made: Any
        make: Any = self
        if name == "_lock":
            made = threading.Lock()
        elif name == "_attributes":
            made = self._bounded(None)
            made._dict = self.row[ATTRIBUTES]  # the same, for whoever adds to it at this moment
        elif name == "_events":
            made = make._new_events()
        elif name == "_links":
            made = make._new_links(())
        else:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        held: Any = self.__dict__
        return held.setdefault(name, made)  # of several threads, the first

    def _bounded(self, attributes: Any) -> BoundedAttributes:  # noqa: ANN401  # the SDK's
        limits = self._limits
        return BoundedAttributes(
            limits.max_span_attributes,
            attributes,
            immutable=False,
            max_value_len=limits.max_span_attribute_length,
        )

    def take(self, attributes: Attributes) -> bool:
        """Add attributes that need no check; False if that is for ``set_attributes``."""
        if self._end_time is not None or "_attributes" in self.__dict__:
            return False
        self.row[ATTRIBUTES].update(attributes)
        return True

    def carry(self, fact: bytes) -> bool:
        """Have a fact told together with the end; False if it has ended."""
        if self._end_time is not None:
            return False
        self.fact = fact
        return True

    def end(self, end_time: int | None = None) -> None:
        """End, as the SDK's spans do."""
        held: Any = self.__dict__
        sink = self.way.sink
        if (
            sink is not None
            and "_events" not in held
            and "_status" not in held
            and "_links" not in held
        ):
            now = time.time_ns() if end_time is None else end_time
            if held.setdefault("_end_time", now) is now:  # no other thread was faster
                sink.light_ended(self)
                return
        fact, self.fact = self.fact, None
        try:
            super().end(end_time)
        finally:
            if sink is not None and fact is not None:
                sink.carried(fact)


def readable(span: LightSpan) -> ReadableSpan:
    """Return an ended span as a processor of the SDK's gets it."""
    return span._readable_span()


class LightTracer(Tracer):
    """A tracer that starts light spans, and decides as its sampler does."""

    _kind: type[LightSpan]
    _way: Way
    _scope: object
    """Its scope as it is packed."""
    _obeys: bool
    _has_room: bool
    """Whether its spans may have all that ``start_described`` puts there unchecked."""

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
    ) -> trace.Span:
        """Start a span, light where it can be."""
        sink = None if links else self._way.sink
        parent = trace.get_current_span(context).get_span_context()
        if sink is None or type(parent) is not SpanContext or self._is_off():
            heavily = super().start_span
            flags = record_exception, set_status_on_exception
            return heavily(name, context, kind, attributes, links, start_time, *flags)
        made = self._made(name, context, parent, kind, attributes)
        if type(made) is not self._kind:
            return made
        if attributes:
            kept = made._attributes = made._bounded(attributes)
            made.row[ATTRIBUTES], made.row[DROPPED_ATTRIBUTES] = kept._dict, kept.dropped
        if not record_exception:
            made._record_exception = False
        if not set_status_on_exception:
            made._set_status_on_exception = False
        _start(made, start_time)
        sink.light_started(made)
        return made

    def start_described(  # noqa: PLR0913, PLR0917  # as the SDK's, and the parent
        self,
        name: str,
        context: Context | None,
        parent: SpanContext,
        kind: SpanKind,
        describe: Callable[[], Attributes],
        start_time: int | None,
    ) -> trace.Span | None:
        """Start a span that is described, unchecked, if it is sampled; None if it can't be light.

        ``parent`` is the span of the ``context``.
        """
        sink = self._way.sink if self._has_room else None
        if sink is None or type(parent) is not SpanContext or self._is_off():
            return None
        made = self._made(name, context, parent, kind, None)
        if type(made) is self._kind:
            made.row[ATTRIBUTES] = describe()
            _start(made, start_time)
            sink.light_started(made)
        return made

    def _is_off(self) -> bool:
        return _CAN_BE_OFF and not self._is_enabled()

    def _made(
        self,
        name: str,
        context: Context | None,
        parent: SpanContext,
        kind: SpanKind,
        attributes: Any,  # noqa: ANN401  # see above
    ) -> trace.Span:
        """Return a span that has not started, or one that is not recorded."""
        ids: Any = self.id_generator
        trace_id, parent_id, remote, flags, state, valid = parent
        if not valid:
            trace_id = ids.generate_trace_id()
            flags = _FLAGS[_RANDOM if getattr(ids, "is_trace_id_random", bool)() else 0]
        sampled = flags & _SAMPLED
        if not (valid and self._obeys):
            result: Any = self.sampler.should_sample(context, trace_id, name, kind, attributes, ())
            sampled, state = int(result.decision.is_sampled()), result.trace_state
        span_id = ids.generate_span_id()
        flags = _FLAGS[sampled | flags & _RANDOM]
        own = SpanContext(trace_id, span_id, is_remote=False, trace_flags=flags, trace_state=state)
        if not sampled:
            return NonRecordingSpan(own)
        span = object.__new__(self._kind)
        span._name, span._context, span._kind = name, own, kind
        span._parent = parent if valid else None
        address = trace_id.to_bytes(16, "big"), span_id.to_bytes(8, "big")
        span.key = address[0] + address[1]
        above = (parent_id.to_bytes(8, "big"), remote) if valid else (None, False)
        span.row = [
            *(name, *address, *above, flags, state_text(own[4]), kind._value_, 0, None),
            *({}, (), (), 0, None, self._scope, 0, 0, 0),
        ]
        return span


def _start(span: LightSpan, start_time: int | None) -> None:
    span._start_time = time.time_ns() if start_time is None else start_time
    span.row[START_NS] = span._start_time


class LightProvider(TracerProvider):
    """A provider whose tracers start light spans as long as a sink is all that hears of them.

    Where the SDK is another than is known here, or counts its own spans, they are the SDK's.
    """

    def __init__(self, **options: Any) -> None:  # noqa: ANN401  # the SDK's
        self._way = Way()
        self._sink: Sink | None = None
        self._kinds: dict[object, type[LightSpan] | None] = {}
        super().__init__(**options)

    def divert(self, sink: Sink | None) -> None:
        """Have light spans taken by a sink, if there are no other processors; None: by nobody."""
        self._sink = sink
        self._choose()

    def add_span_processor(self, span_processor: SpanProcessor) -> None:
        """Have one more processor hear of all spans, which are the SDK's own from now on."""
        super().add_span_processor(span_processor)
        self._choose()

    def _choose(self) -> None:
        processors = getattr(self._active_span_processor, "_span_processors", ())
        self._way.sink = self._sink if len(processors) == 1 else None

    def get_tracer(self, *args: Any, **named: Any) -> trace.Tracer:  # noqa: ANN401  # the SDK's
        """Return a tracer."""
        tracer = super().get_tracer(*args, **named)
        if type(tracer) is Tracer:
            try:
                self._lighten(tracer)
            except (AttributeError, TypeError) as error:  # another SDK
                _log.debug("taskobs: spans are the SDK's own: %r", error)
        return tracer

    def _lighten(self, tracer: Tracer) -> None:
        """Make a tracer one that starts light spans; it stays the one that the SDK knows.

        Raises:
            AttributeError, TypeError: the SDK's are others than those that are known here.
        """
        scope = tracer._instrumentation_scope
        if scope not in self._kinds:  # some releases make a new tracer at each call
            if len(self._kinds) >= _SCOPES:
                self._kinds.clear()
            self._kinds[scope] = _kind_for(tracer, self._way)
        kind = self._kinds[scope]
        if kind is not None:
            light: Any = tracer
            light._kind, light._way, light._obeys = kind, self._way, _obeys(tracer.sampler)
            light._scope = scope_row(scope)
            light._has_room = _has_room(tracer._span_limits)
            light.__class__ = LightTracer


def _kind_for(tracer: Tracer, way: Way) -> type[LightSpan] | None:
    """Return the class of a tracer's light spans; None if the SDK's have what these lack.

    Raises:
        AttributeError, TypeError: they are made in another way than is known here.
    """
    counted = type(getattr(tracer, "_tracer_metrics", None)).__name__
    if counted not in ("NoneType", "NoOpTracerMetrics") or not _drops_or_samples(tracer.sampler):
        return None
    sample = vars(
        sdk._Span(
            name="",
            context=SpanContext(1, 1, is_remote=False),
            sampler=tracer.sampler,
            resource=tracer.resource,
            span_processor=cast("Any", tracer.span_processor),
            instrumentation_info=tracer.instrumentation_info,
            limits=tracer._span_limits,
            instrumentation_scope=tracer._instrumentation_scope,
        )
    )
    if not sample.keys() <= _OWN | _LATE | _COMMON or type(sample["_attributes"]._dict) is not dict:
        return None
    common = {name: value for name, value in sample.items() if name in _COMMON}
    return type("_Span", (LightSpan,), {**common, "way": way})


def _has_room(limits: SpanLimits) -> bool:
    most = limits.max_span_attributes
    return limits.max_span_attribute_length is None and (most is None or most >= _ROOM)


def _obeys(sampler: object) -> bool:
    """Tell whether a sampler does as a parent did, if there is one."""
    delegates = {
        "_remote_parent_sampled": Decision.RECORD_AND_SAMPLE,
        "_local_parent_sampled": Decision.RECORD_AND_SAMPLE,
        "_remote_parent_not_sampled": Decision.DROP,
        "_local_parent_not_sampled": Decision.DROP,
    }
    return isinstance(sampler, ParentBased) and all(
        type(part := getattr(sampler, name, None)) is StaticSampler and part._decision is decision
        for name, decision in delegates.items()
    )


def _drops_or_samples(sampler: object) -> bool:
    """Tell samplers of the SDK that drop a span or sample it; some record without sampling."""
    return (
        type(sampler).__module__ == Decision.__module__
        and type(sampler).__name__ != "AlwaysRecordSampler"
        and getattr(sampler, "_decision", None) is not Decision.RECORD_ONLY
        and all(
            _drops_or_samples(part)
            for part in vars(sampler).values()
            if hasattr(part, "should_sample")
        )
    )
