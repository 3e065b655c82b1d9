"""Trace context in and out of message headers, through OpenTelemetry's global propagator."""

from __future__ import annotations

from collections.abc import Callable, Iterable, MutableMapping
from functools import lru_cache
from typing import Final

from opentelemetry import propagate
from opentelemetry.context import Context
from opentelemetry.propagators.textmap import Getter, TextMapPropagator
from opentelemetry.trace import Link, SpanContext, TraceFlags

from taskobs import names

# W3C Baggage, section "Limits": 8192 bytes in all, 64 members must be supported; 180 was the
# limit of earlier drafts. https://www.w3.org/TR/baggage/#limits
_BAGGAGE: Final = "baggage"
_BAGGAGE_BYTES: Final = 8192
_BAGGAGE_MEMBERS: Final = 180
_LINKS: Final = 128  # the SDK's default limit of links on a span
_TRACE_HEX: Final = 32
_SPAN_HEX: Final = 16

HeaderReader = Callable[[str], "str | None"]


class _HeaderGetter(Getter[HeaderReader]):
    def get(self, carrier: HeaderReader, key: str) -> list[str] | None:
        value = carrier(key)
        return None if value is None else [value]

    def keys(self, carrier: HeaderReader) -> list[str]:
        return []


_getter = _HeaderGetter()


def extract(header: HeaderReader) -> Context:
    """Return the context that the message carries; nothing of this process's own leaks in."""
    return propagate.extract(header, context=Context(), getter=_getter)


def inject(headers: MutableMapping[str, object], context: Context | None = None) -> None:
    """Write ``context`` (the current one by default) into ``headers``.

    What an earlier attempt left there is replaced. Members of a ``baggage`` that is already
    there are kept, unless the context has a member of the same name.
    """
    before = headers.get(_BAGGAGE)
    for name in _fields(propagate.get_global_textmap()):
        headers.pop(name, None)
    carrier: dict[str, str] = {}
    propagate.inject(carrier, context=context)
    headers.update(carrier)
    if isinstance(before, str) and before:
        headers[_BAGGAGE] = _merged(carrier.get(_BAGGAGE, ""), before)


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
    return Link(context, {names.LINK_KIND: kind}) if context.is_valid else None
