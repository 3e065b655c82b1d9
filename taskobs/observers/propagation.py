"""Trace context in and out of message headers, through OpenTelemetry's global propagator."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, MutableMapping
from functools import lru_cache
from typing import Final

from opentelemetry import baggage, propagate, trace
from opentelemetry.baggage.propagation import W3CBaggagePropagator
from opentelemetry.context import Context
from opentelemetry.propagators.composite import CompositePropagator
from opentelemetry.propagators.textmap import Getter, TextMapPropagator
from opentelemetry.trace import Link, NonRecordingSpan, SpanContext, TraceFlags
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from taskobs import semconv

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
_TRACE_HEX: Final = 32
_SPAN_HEX: Final = 16

Headers = Mapping[str, str]


class _HeaderGetter(Getter[Headers]):
    def get(self, carrier: Headers, key: str) -> list[str] | None:
        value = carrier.get(key)
        return None if value is None else [value]

    def keys(self, carrier: Headers) -> list[str]:
        return list(carrier)


_getter = _HeaderGetter()


def extract(headers: Headers) -> tuple[Context, SpanContext]:
    """Return the context that the message carries, and the span in it.

    Nothing of this process's own leaks in.
    """
    if _is_w3c(propagate.get_global_textmap()):
        parent = _plain_parent(headers)
        if parent is not None:
            return trace.set_span_in_context(NonRecordingSpan(parent), Context()), parent
    context = propagate.extract(headers, context=Context(), getter=_getter)
    return context, trace.get_current_span(context).get_span_context()


def _plain_parent(headers: Headers) -> SpanContext | None:
    """Read a ``traceparent`` that is all there is, in half the time that a propagator takes.

    None for whatever else there is: that is for the propagator to judge.
    """
    found = _PLAIN_TRACEPARENT.fullmatch(headers.get(_TRACEPARENT, ""))
    if found is None or _TRACESTATE in headers or _BAGGAGE in headers:
        return None
    trace_id, span_id = int(found[1], 16), int(found[2], 16)
    if not (trace_id and span_id):
        return None
    return SpanContext(trace_id, span_id, is_remote=True, trace_flags=_FLAGS[found[3]])


def inject(headers: MutableMapping[str, object], context: Context) -> None:
    """Write ``context`` into ``headers``.

    What an earlier attempt left there is replaced. Members of a ``baggage`` that is already
    there are kept, unless the context has a member of the same name.
    """
    before = headers.get(_BAGGAGE)
    if before is None and _inject_plain(headers, context):
        return
    for name in _fields(propagate.get_global_textmap()):
        headers.pop(name, None)
    carrier: dict[str, str] = {}
    propagate.inject(carrier, context=context)
    headers.update(carrier)
    if isinstance(before, str) and before:
        headers[_BAGGAGE] = _merged(carrier.get(_BAGGAGE, ""), before)


def _inject_plain(headers: MutableMapping[str, object], context: Context) -> bool:
    """Write a ``traceparent`` if a propagator would write no more than that."""
    span = trace.get_current_span(context).get_span_context()
    plain = span.is_valid and not span.trace_state and _is_w3c(propagate.get_global_textmap())
    if not plain or (len(context) > 1 and baggage.get_all(context)):  # 1 is the span
        return False
    headers.pop(_TRACESTATE, None)
    headers.pop(_BAGGAGE, None)
    headers[_TRACEPARENT] = address_of(span)
    return True


@lru_cache(maxsize=8)
def _is_w3c(propagator: TextMapPropagator) -> bool:
    """Tell OpenTelemetry's default, which is what the short ways here stand for."""
    parts: Iterable[object] = getattr(propagator, "_propagators", ())
    return type(propagator) is CompositePropagator and {type(part) for part in parts} == _W3C


@lru_cache(maxsize=8)
def _fields(propagator: TextMapPropagator) -> frozenset[str]:
    """Remember the headers of a propagator: the composite one works them out at each call."""
    return frozenset(propagator.fields)


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
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"


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
