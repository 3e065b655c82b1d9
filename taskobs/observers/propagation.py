"""Trace context in and out of message headers, through OpenTelemetry's global propagator."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, MutableMapping
from itertools import islice
from typing import Any, Final, NamedTuple, cast

from opentelemetry import baggage, propagate, trace
from opentelemetry.baggage.propagation import W3CBaggagePropagator
from opentelemetry.context import Context
from opentelemetry.propagators.composite import CompositePropagator
from opentelemetry.propagators.textmap import Getter, TextMapPropagator
from opentelemetry.trace import (
    INVALID_SPAN,
    INVALID_SPAN_CONTEXT,
    Link,
    NonRecordingSpan,
    Span,
    SpanContext,
    TraceFlags,
)
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from taskobs import semconv
from taskobs.model import Publish

# W3C Baggage, section "Limits": 8192 bytes in all, 64 members must be supported; 180 was the
# limit of earlier drafts. https://www.w3.org/TR/baggage/#limits
_TRACEPARENT: Final = "traceparent"
_TRACESTATE: Final = "tracestate"
_BAGGAGE: Final = "baggage"
_PLAIN_TRACEPARENT: Final = re.compile("00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})")
_W3C: Final[set[type[object]]] = {TraceContextTextMapPropagator, W3CBaggagePropagator}
_BAGGAGE_BYTES: Final = 8192
_BAGGAGE_MEMBERS: Final = 180
_FLAGS: Final = {f"{flags:02x}": TraceFlags(flags) for flags in range(256)}
_LINKS: Final = 128  # the SDK's default limit of links on a span
_NO_STATE: Final = INVALID_SPAN_CONTEXT.trace_state
"""The one of nearly all spans: asking it for its length takes two calls."""
_PUBLISH: Final = {semconv.LINK_KIND: semconv.LINK_PUBLISH}
_TRACE_HEX: Final = 32
_SPAN_HEX: Final = 16

_new: Final = cast("Callable[..., Any]", tuple.__new__)  # pyright: ignore[reportUnknownMemberType]
_SPAN_KEYS: Final = tuple(trace.set_span_in_context(INVALID_SPAN, Context()))
_SPAN_KEY: Final = _SPAN_KEYS[0]
"""By which key a context holds its span: it has no public name."""
_IS_KNOWN: Final = len(_SPAN_KEYS) == 1 and (
    SpanContext(1, 2, is_remote=True) == (1, 2, True, 0, _NO_STATE, True)
)
"""Whether contexts are what is made here: those of spans a tuple, OpenTelemetry's a dict."""

Headers = Mapping[str, object]
"""A message's headers; only those that are text are read."""
PartsOf = Callable[[object], Iterable[object]]
"""Returns what a composite propagator consists of; nothing if that can't be told."""


def with_span(span: Span, context: Context) -> Context:
    """Return a context with a span as its current one, in half the time that the API takes."""
    if not _IS_KNOWN:
        return trace.set_span_in_context(span, context)
    return Context({**context, _SPAN_KEY: span})


class _TextGetter(Getter[Headers]):
    def get(self, carrier: Headers, key: str) -> list[str] | None:
        value = carrier.get(key)
        return [value] if isinstance(value, str) else None

    def keys(self, carrier: Headers) -> list[str]:
        return list(carrier)


_getter: Final = _TextGetter()


class _Traits(NamedTuple):
    """What decides how headers are read and written with a propagator."""

    propagator: object
    is_w3c: bool
    """Whether it is OpenTelemetry's default, for which there are shorter ways here."""
    fields: frozenset[str]
    """The headers that it writes: the composite one works them out at each call."""


def _no_parts(propagator: object) -> Iterable[object]:  # noqa: ARG001  # as ``PartsOf``
    return ()


class HeaderPropagator:
    """Trace context in and out of headers, through OpenTelemetry's global propagator.

    That may be any object with a propagator's interface. What is known of it is remembered by
    identity, since it may be neither hashable nor comparable.
    """

    def __init__(self, parts_of: PartsOf = _no_parts) -> None:
        self._parts_of = parts_of
        self._traits = _Traits(None, is_w3c=False, fields=frozenset())

    def extract(
        self, headers: Headers, within: Context | None = None
    ) -> tuple[Context, SpanContext]:
        """Return the context that the headers carry, and the span in it.

        It is added to the context ``within``. Without that, nothing of this process's own is in it.
        """
        propagator = propagate.get_global_textmap()
        traits = (
            self._traits if self._traits.propagator is propagator else self._read_traits(propagator)
        )
        if traits.is_w3c and _IS_KNOWN and _TRACESTATE not in headers and _BAGGAGE not in headers:
            # A ``traceparent`` that is all there is: read in half the time that a propagator takes.
            address = headers.get(_TRACEPARENT)
            found = _PLAIN_TRACEPARENT.fullmatch(address) if type(address) is str else None
            if found is not None:
                trace_hex, span_hex, flags = found.groups()
                trace_id, span_id = int(trace_hex, 16), int(span_hex, 16)
                if trace_id and span_id:
                    parent: SpanContext = _new(
                        SpanContext, (trace_id, span_id, True, _FLAGS[flags], _NO_STATE, True)
                    )
                    entry = {_SPAN_KEY: NonRecordingSpan(parent)}
                    return Context({**within, **entry} if within else entry), parent
        base = Context() if within is None else within
        context = propagate.extract(headers, context=base, getter=_getter)
        return context, trace.get_current_span(context).get_span_context()

    def links_to_publishes(self, messages: Iterable[Headers]) -> list[Link]:
        """Return links to the publishes of messages, at most as many as a span can hold."""
        parents = (self.extract(headers)[1] for headers in messages)
        valid = (Link(parent, _PUBLISH) for parent in parents if parent.is_valid)
        return list(islice(valid, _LINKS))

    def inject(
        self, headers: MutableMapping[str, object], context: Context, span: Span | None = None
    ) -> str | None:
        """Write ``context`` into ``headers``; ``span`` is the one in it, if that is at hand.

        What an earlier attempt left there is replaced. Members of a ``baggage`` that is already
        there are kept, unless the context has a member of the same name. Returns the span's
        address if that is all that was written.
        """
        before = headers.get(_BAGGAGE)
        propagator = propagate.get_global_textmap()
        traits = (
            self._traits if self._traits.propagator is propagator else self._read_traits(propagator)
        )
        if traits.is_w3c and before is None:
            if span is None:
                span = trace.get_current_span(context)
            address = _inject_plain(headers, context, span)
            if address is not None:
                return address
        for name in traits.fields:
            headers.pop(name, None)
        carrier: dict[str, str] = {}
        propagate.inject(carrier, context=context)
        headers.update(carrier)
        if isinstance(before, str) and before:
            headers[_BAGGAGE] = _merged(carrier.get(_BAGGAGE, ""), before)
        return None

    def _read_traits(self, propagator: TextMapPropagator) -> _Traits:
        is_w3c = (
            type(propagator) is CompositePropagator
            and {type(part) for part in self._parts_of(propagator)} == _W3C
        )
        self._traits = traits = _Traits(
            propagator, is_w3c, frozenset(getattr(propagator, "fields", ()))
        )
        return traits


def _inject_plain(headers: MutableMapping[str, object], context: Context, span: Span) -> str | None:
    """Write a ``traceparent`` if OpenTelemetry's default would write no more than that."""
    found = span.get_span_context()
    if type(found) is SpanContext:  # see ``address_of``
        _, _, _, _, state, valid = found
    else:
        state, valid = found.trace_state, found.is_valid
    # A context of one entry holds the span and no baggage.
    has_more = (state is not _NO_STATE and state) or (len(context) > 1 and baggage.get_all(context))
    if not valid or has_more:
        return None
    headers.pop(_TRACESTATE, None)
    headers.pop(_BAGGAGE, None)
    headers[_TRACEPARENT] = address = address_of(found)
    return address


def _merged(ours: str, theirs: str) -> str:
    members = [member for member in ours.split(",") if member]
    taken = {_key(member) for member in members}
    size = len(ours)
    for member in theirs.split(","):
        size += len(member) + 1
        if size > _BAGGAGE_BYTES or len(members) >= _BAGGAGE_MEMBERS:
            break
        if member.strip() and _key(member) not in taken:
            members.append(member.strip())
    return ",".join(members)


def _key(member: str) -> str:
    return member.split("=", 1)[0].strip()


def address_of(context: SpanContext) -> str:
    """Write a span's address as a ``traceparent``.

    https://www.w3.org/TR/trace-context/#traceparent-header
    """
    if type(context) is SpanContext:  # a tuple, which is read in a third of the time
        trace_id, span_id, _, flags, _, _ = context
    else:
        trace_id, span_id, flags = context.trace_id, context.span_id, context.trace_flags
    return f"00-{trace_id:032x}-{span_id:016x}-{flags:02x}"


def links_to_send(publish: Publish, span: Span) -> list[tuple[str, str]]:
    """Return the ``(kind, address)`` pairs of what the message of a publish is to be linked to."""
    links: list[tuple[str, str]] = []
    again = publish.retries
    if again is not None and again.span is not None:
        links.append((semconv.LINK_RETRY_OF, again.span.traceparent))
        links.append((semconv.LINK_PUBLISH, address_of(span.get_span_context())))
    if publish.header_runs is not None:
        links += [(semconv.LINK_CHORD_HEADER, address) for address in publish.header_runs.load()]
    return links


def write_links(links: Iterable[tuple[str, str]]) -> str:
    """Write ``(kind, address)`` pairs as one header, at most as many as a span can hold."""
    return ",".join(f"{kind}:{address}" for kind, address in list(links)[:_LINKS])


def read_links(header: str | None) -> list[Link]:
    """Read the links of a header; what is malformed is left out."""
    if header is None:
        return []
    found = (_link(part) for part in header.split(",")[:_LINKS])
    return [link for link in found if link is not None]


def _link(part: str) -> Link | None:
    kind, _, address = part.partition(":")
    fields = address.split("-")
    if len(fields) != 4 or len(fields[1]) != _TRACE_HEX or len(fields[2]) != _SPAN_HEX:  # noqa: PLR2004  # the four of a traceparent
        return None
    try:
        context = SpanContext(
            trace_id=int(fields[1], 16),
            span_id=int(fields[2], 16),
            is_remote=True,
            trace_flags=TraceFlags(int(fields[3], 16)),
        )
    except ValueError:
        return None
    return Link(context, {semconv.LINK_KIND: kind}) if context.is_valid else None
