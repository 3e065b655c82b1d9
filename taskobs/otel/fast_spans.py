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
from collections.abc import Callable, Iterable, Sequence
from types import FunctionType
from typing import TYPE_CHECKING, Any, ClassVar, Final, Protocol, cast

from opentelemetry import trace
from opentelemetry.attributes import BoundedAttributes
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
from opentelemetry.sdk.trace.sampling import Decision, ParentBased, Sampler, StaticSampler
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    TraceFlags,
    TraceState,
)
from opentelemetry.util.types import AttributeValue

from taskobs.protocol.span_encoder import (
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
_STATE: Final = 4
"""Where a span's context, a tuple, has its trace state."""
_ENDER: Final = "_fast_ender"
_ROOM: Final = 64
"""Attributes that a span must be allowed to have, to be described: those of tasks have fewer."""
_SCOPES: Final = 1_000
_log: Final = logging.getLogger("taskobs")
_CAN_BE_OFF: Final = hasattr(Tracer, "_is_enabled")
_OWN: Final = frozenset({"_name", "_context", "_kind", "_parent", "_start_time"})
_LATE: Final = frozenset({"_lock", "_attributes", "_events", "_links", "_resource"})
_COMMON: Final = frozenset(
    {
        *("_instrumentation_info", "_instrumentation_scope", "_sampler", "_limits"),
        *("_span_processor", "_end_time", "_status", "_trace_config", "_record_exception"),
        *("_set_status_on_exception", "_record_end_metrics"),
    }
)


class SpanSink(Protocol):
    """Takes light spans."""

    def fast_span_started(self, span: FastSpan) -> object:
        """Take a span that has started."""

    def fast_span_ended(self, span: FastSpan, *, again: bool = False) -> object:
        """Take a span that has ended without an event, a link or a status.

        It is called ``again`` when an exception has struck it, as a time limit may.
        """


class Route:
    """Where the light spans of a provider go."""

    def __init__(self, provider: TracerProvider) -> None:
        self.provider = provider
        self._span_sink: SpanSink | None = None
        self._all: Any = None
        self._only: object = None

    def set_sink(self, span_sink: SpanSink | None, processors: object) -> None:
        """Lead to a sink as long as a provider's processors are as they are now: but one."""
        only = getattr(processors, "_span_processors", ())
        alone = type(processors) is SynchronousMultiSpanProcessor and len(only) == 1
        self._all, self._only = processors, only
        self._span_sink = span_sink if alone else None

    @property
    def span_sink(self) -> SpanSink | None:
        """What takes light spans; None if they are the SDK's to take."""
        span_sink = self._span_sink
        # The SDK makes a new tuple for each change.
        return (
            span_sink
            if span_sink is not None and self._all._span_processors is self._only
            else None
        )


class FastSpan(sdk._Span):
    """A span that makes its lock and its lists when somebody asks for them.

    What all spans of a tracer have in common is said once, in a class of their own.
    """

    if TYPE_CHECKING:
        _end_time: int | None

    fast_route: ClassVar[Route]
    unlimited: ClassVar[bool]
    """Whether it may have all that it is described with, unchecked."""
    fast_key: bytes
    fast_row: list[Any]
    """What it is packed as; its attributes as long as nobody has asked for them."""

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401  # of what is not there yet
        made: Any
        make: Any = self
        if name == "_lock":
            made = threading.Lock()
        elif name == "_attributes":
            made = self._bounded(None)
            made._dict = self.fast_row[ATTRIBUTES]  # the same, as it may be added to just now
        elif name == "_events":
            made = make._new_events()
        elif name == "_links":
            made = make._new_links(())
        elif name == "_resource":
            return self.fast_route.provider.resource  # which is another one in a forked child
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

    def try_set_attributes(self, attributes: Attributes) -> bool:
        """Add attributes that need no check; False if that is for ``set_attributes``."""
        if self._end_time is not None or "_attributes" in self.__dict__ or not self.unlimited:
            return False
        self.fast_row[ATTRIBUTES].update(attributes)
        return True

    def end(self, end_time: int | None = None) -> None:
        """End, as the SDK's spans do."""
        held: Any = self.__dict__
        span_sink = self.fast_route.span_sink
        if (
            span_sink is None
            or "_end_time" in held
            or "_events" in held
            or "_status" in held
            or "_links" in held
        ):
            super().end(end_time)
            return
        me = object()
        try:
            if held.setdefault(_ENDER, me) is not me:  # it has ended before, or in another thread
                super().end(end_time)
                return
            held["_end_time"] = time.time_ns() if end_time is None else end_time
            span_sink.fast_span_ended(self)
        except BaseException:  # a time limit struck: rather told twice than not at all
            if _ENDER in held and held[_ENDER] is me:
                held.setdefault("_end_time", time.time_ns())
                span_sink.fast_span_ended(self, again=True)
            raise


def readable(span: FastSpan) -> ReadableSpan:
    """Return an ended span as a processor of the SDK's gets it."""
    return span._readable_span()


class FastSpanTracer(Tracer):
    """A tracer that starts light spans, and decides as its sampler does."""

    _kind: type[FastSpan]
    _route: Route
    _scope: object
    """Its scope as it is packed."""
    _judged: Sampler
    """The sampler that is known to drop or to sample."""
    _obeys: bool
    """Whether it does as a parent did, and what it does without one, if that is always the same."""
    _roots: int | None

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
        """Start a span, light where it can be."""
        span_sink = None if links or more else self._route.span_sink
        parent = trace.get_current_span(context).get_span_context()
        if span_sink is None or self._needs_sdk_span(parent, kind):
            flags = record_exception, set_status_on_exception
            return self.start_sdk_span(
                name, context, kind, attributes, links, start_time, *flags, **more
            )
        made = self._made(name, context, parent, kind, attributes)
        if type(made) is not self._kind:
            return made
        if attributes:
            kept = made._attributes = made._bounded(attributes)
            made.fast_row[ATTRIBUTES] = kept._dict
            made.fast_row[DROPPED_ATTRIBUTES] = kept.dropped
        if not record_exception:
            made._record_exception = False
        if not set_status_on_exception:
            made._set_status_on_exception = False
        _start(made, start_time)
        span_sink.fast_span_started(made)
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
        span_sink = self._route.span_sink if self._kind.unlimited else None
        if span_sink is None or self._needs_sdk_span(parent, kind):
            return None
        made = self._made(name, context, parent, kind, None)
        if type(made) is self._kind:
            made.fast_row[ATTRIBUTES] = describe()
            _start(made, start_time)
            span_sink.fast_span_started(made)
        return made

    def start_sdk_span(self, *args: Any, **named: Any) -> trace.Span:  # noqa: ANN401  # the SDK's
        """Start a span as the SDK does."""
        return super().start_span(*args, **named)

    def _needs_sdk_span(self, parent: object, kind: object) -> bool:
        """Tell what is for the SDK to judge."""
        return (
            type(parent) is not SpanContext
            or type(parent[_STATE]) is not TraceState
            or type(kind) is not SpanKind
            or self.sampler is not self._judged
            or (_CAN_BE_OFF and not self._is_enabled())
        )

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
        state: TraceState | None
        trace_id, parent_id, remote, flags, state, valid = parent
        if not valid:
            state = None
            trace_id = ids.generate_trace_id()
            flags = _FLAGS[_RANDOM if getattr(ids, "is_trace_id_random", bool)() else 0]
        sampled: int | None = self._roots
        if valid:
            sampled = flags & _SAMPLED if self._obeys else None
        if sampled is None:
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
        span.fast_key = address[0] + address[1]
        above = (parent_id.to_bytes(8, "big"), remote) if valid else (None, False)
        span.fast_row = [
            *(name, *address, *above, flags, state_text(own[4]), kind._value_, 0, None),
            *({}, (), (), 0, None, self._scope, 0, 0, 0),
        ]
        return span


def _start(span: FastSpan, start_time: int | None) -> None:
    span._start_time = time.time_ns() if start_time is None else start_time
    span.fast_row[START_NS] = span._start_time


class FastSpanProvider(TracerProvider):
    """A provider whose tracers start light spans as long as a sink is all that hears of them.

    Where the SDK is another than is known here, or counts its own spans, they are the SDK's.
    """

    def __init__(self, **options: Any) -> None:  # noqa: ANN401  # the SDK's
        self._route = Route(self)
        self._kinds: dict[object, type[FastSpan] | None] = {}
        super().__init__(**options)

    def route_to(self, span_sink: SpanSink | None) -> None:
        """Have light spans taken by a sink, if there are no other processors; None: by nobody."""
        self._route.set_sink(span_sink, self._active_span_processor)

    def get_tracer(self, *args: Any, **named: Any) -> trace.Tracer:  # noqa: ANN401  # the SDK's
        """Return a tracer."""
        tracer = super().get_tracer(*args, **named)
        if type(tracer) is Tracer:
            try:
                self._make_fast(tracer)
            except Exception as error:  # noqa: BLE001  # another SDK, or one that was patched
                _log.debug("taskobs: spans are the SDK's own: %r", error)
        return tracer

    def _make_fast(self, tracer: Tracer) -> None:
        """Make a tracer one that starts light spans; it stays the one that the SDK knows."""
        scope = tracer._instrumentation_scope
        kind = self._kinds.get(scope)  # some releases make a new tracer at each call
        if kind is None and scope not in self._kinds:
            if len(self._kinds) >= _SCOPES:
                self._kinds.clear()
            kind = self._kinds[scope] = _kind_for(tracer, self._route)
        if kind is not None and _drops_or_samples(tracer.sampler):
            fast: Any = tracer
            fast._kind, fast._route, fast._scope = kind, self._route, scope_row(scope)
            fast._judged, fast._obeys = tracer.sampler, _obeys(tracer.sampler)
            fast._roots = _always(getattr(tracer.sampler, "_root", tracer.sampler))
            fast.__class__ = FastSpanTracer


def _kind_for(tracer: Tracer, route: Route) -> type[FastSpan] | None:
    """Return the class of a tracer's light spans; None if the SDK's have what these lack."""
    counted = type(getattr(tracer, "_tracer_metrics", None)).__name__
    if counted not in ("NoneType", "NoOpTracerMetrics") or not all(
        map(_is_the_sdk_s, _passed_by())
    ):
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
    ours = {
        "fast_route": route,
        "unlimited": _has_room(tracer._span_limits),
        "__module__": __name__,
    }
    return type("_Span", (FastSpan,), {**common, **ours})


def _passed_by() -> Iterable[object]:
    """Return what is not called for a light span."""
    own = (Span.__init__, Span.start, Span.end, Span._readable_span)
    return (*own, ReadableSpan.__init__, Tracer.start_span)


def _is_the_sdk_s(function: object) -> bool:
    """Tell whether a function is as the SDK has it; some libraries put their own in its place."""
    code = getattr(function, "__code__", None)
    return type(function) is FunctionType and code.co_filename == sdk.__file__  # type: ignore[union-attr]


def _has_room(limits: SpanLimits) -> bool:
    most = limits.max_span_attributes
    return limits.max_span_attribute_length is None and (most is None or most >= _ROOM)


def _always(sampler: object) -> int | None:
    """Return what a sampler decides, whatever it is asked; None if it depends."""
    if type(sampler) is not StaticSampler:
        return None
    return int(sampler._decision is Decision.RECORD_AND_SAMPLE)


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
