"""A span as the payload of a frame: its key, then a msgpack list of fields.

``SpanDecoder`` is the way back. A span's fields are read by a function that is given, since
the quickest one uses private names of the SDK. A span that this one can't read, or that holds what
msgpack doesn't know, is read through its public properties and cleaned.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any, Final, cast

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.trace import Link, SpanContext, TraceState
from opentelemetry.trace.span import DEFAULT_TRACE_STATE

from taskobs.protocol import frames
from taskobs.protocol.frames import MAX_CONTAINERS, pack
from taskobs.protocol.sanitize import UNEXPECTED, sanitize
from taskobs.protocol.span_fit import MOST, Room, fits, say_dropped

KEY_BYTES: Final = frames.KEY_BYTES
MAX_SPAN: Final = 1024 * 1024
"""Bytes of the longest packed span; a longer one has its long values cut."""
SURE: Final = MAX_CONTAINERS
"""Bytes up to which a payload is known to fit."""
MAX_START: Final = 64 * 1024
"""The same for a span that has just started, as both sides keep it until its end."""

# Indexes of the fields in the list that a packed span is.
NAME: Final = 0
TRACE_ID: Final = 1
SPAN_ID: Final = 2
PARENT_SPAN_ID: Final = 3
PARENT_IS_REMOTE: Final = 4
TRACE_FLAGS: Final = 5
TRACE_STATE: Final = 6
KIND: Final = 7
START_NS: Final = 8
END_NS: Final = 9
ATTRIBUTES: Final = 10
"""A map; or a list of the packed map that many spans share, and the map of its own."""
EVENTS: Final = 11
"""Each: name, nanoseconds, attributes, dropped attributes."""
LINKS: Final = 12
"""Each: trace id, span id, flags, trace state, attributes, dropped attributes, is remote."""
STATUS: Final = 13
STATUS_DESCRIPTION: Final = 14
SCOPE: Final = 15
"""Name, version or None, schema URL, attributes or None; or None."""
DROPPED_ATTRIBUTES: Final = 16
DROPPED_EVENTS: Final = 17
DROPPED_LINKS: Final = 18
FIELDS: Final = 19
"""Without the route, which ``span_routes`` adds."""

_WHAT: Final = {ATTRIBUTES: "attributes", EVENTS: "events", LINKS: "links"}
_DROPPED_AT: Final = {
    ATTRIBUTES: DROPPED_ATTRIBUTES,
    EVENTS: DROPPED_EVENTS,
    LINKS: DROPPED_LINKS,
}

_UNSET: Final = ReadableSpan("", resource=Resource({})).status
"""The status that all spans without one share. It is compared by identity: reading takes longer."""

_EVENTS_READ: Final = 7
"""Where what ``Fields`` returns has the events."""
Fields = Callable[[ReadableSpan], "tuple[Any, ...]"]
"""Reads a span as ``public_fields`` does."""


def public_fields(span: ReadableSpan) -> tuple[Any, ...]:
    """Return what a span holds: its attributes as a dict, its events and links as they are."""
    attributes: Mapping[str, Any] = span.attributes or {}
    return (
        *(span.name, span.get_span_context(), span.parent, span.kind.value),
        *(span.start_time, span.end_time, dict(attributes), span.events, span.links),
        *(span.status, span.instrumentation_scope),
        *(span.dropped_attributes, span.dropped_events, span.dropped_links),
    )


def pack_start(span: ReadableSpan, fields: Fields = public_fields) -> bytes:
    """Return the payload of a START frame; never raises for a span of the SDK's."""
    return _packed(span, MAX_START, fields)


def pack_end(span: ReadableSpan, fields: Fields = public_fields) -> bytes:
    """Return the payload of an END frame; never raises for a span of the SDK's."""
    return _packed(span, MAX_SPAN, fields)


def unpack_row(packed: bytes) -> list[Any]:
    """Return the fields of a packed span; its attributes may be in two parts.

    That of a fast span that has ended may be a list of six: the span as it was packed when it
    started, its end, and the attributes, events and status that it was given in between.

    Raises:
        ValueError, TypeError, AttributeError, LookupError: it is no packed span.
    """
    row: Any = frames.unpack(packed)
    if type(row[0]) is bytes:
        start, end_ns, added, events, status, description = row
        row = frames.unpack(start, MAX_START)
        attributes = row[ATTRIBUTES]
        own: Any = cast("Any", attributes)[1] if type(attributes) is list else attributes
        own.update(added)
        row[END_NS], row[EVENTS] = end_ns, events
        row[STATUS], row[STATUS_DESCRIPTION] = status, description
    fields: list[Any] = row
    return fields


def unpack_whole_row(packed: bytes) -> list[Any]:
    """Do the same, with all of its attributes in one map."""
    row = unpack_row(packed)
    if type(row[ATTRIBUTES]) is list:
        shared, own = row[ATTRIBUTES]
        row[ATTRIBUTES] = {**frames.unpack(shared, MAX_START), **own}
    return row


def is_fit(payload: bytes, limit: int) -> bool:
    """Tell whether the relay takes a payload of at most ``limit`` bytes."""
    return fits(payload[KEY_BYTES:], limit - KEY_BYTES)


def split(payload: bytes) -> tuple[bytes, bytes]:
    """Return the key and the packed span of a START or END payload."""
    return payload[:KEY_BYTES], payload[KEY_BYTES:]


def key_of(context: SpanContext) -> bytes:
    """Return a span's key."""
    return context.trace_id.to_bytes(16, "big") + context.span_id.to_bytes(8, "big")


def _packed(span: ReadableSpan, limit: int, fields: Fields) -> bytes:
    try:
        payload = _quickly(fields(span))
    except UNEXPECTED:
        return _carefully(span, limit)
    if len(payload) <= SURE or is_fit(payload, limit):
        return payload
    return _carefully(span, limit)


def _quickly(fields: tuple[Any, ...]) -> bytes:
    if len(fields[_EVENTS_READ]) > MOST:
        raise OverflowError("more events than a frame holds")
    row = row_of(fields)
    key: bytes = row[TRACE_ID] + row[SPAN_ID]
    return key + pack(row)


def row_of(fields: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return the fields of a span as they are packed; attributes are not copied."""
    (
        name,
        (trace_id, span_id, _, flags, state, _),
        parent,
        kind,
        start,
        end,
        attributes,
        events,
        links,
        status,
        scope,
        dropped_attributes,
        dropped_events,
        dropped_links,
    ) = fields
    cached = _scopes.get(id(scope))
    return (
        name,
        trace_id.to_bytes(16, "big"),
        span_id.to_bytes(8, "big"),
        None if parent is None else parent[1].to_bytes(8, "big"),
        False if parent is None else parent[2],
        flags,
        "" if state is DEFAULT_TRACE_STATE else state.to_header(),
        kind,
        start,
        end,
        attributes,
        [_event(event) for event in events] if events else (),
        [_link(link) for link in links] if links else (),
        0 if status is _UNSET else status.status_code.value,
        None if status is _UNSET else status.description,
        cached[1] if cached is not None and cached[0] is scope else scope_row(scope),
        dropped_attributes,
        dropped_events,
        dropped_links,
    )


def _event(event: Event) -> list[object]:
    attributes = event.attributes
    dropped = getattr(attributes, "dropped", 0)
    return [event.name, event.timestamp, dict(attributes or ()), dropped]


def _link(link: Link) -> list[object]:
    context, attributes = link.context, link.attributes
    return [
        context.trace_id.to_bytes(16, "big"),
        context.span_id.to_bytes(8, "big"),
        context.trace_flags,
        _state_text(context.trace_state),
        dict(attributes or ()),
        getattr(attributes, "dropped", 0),
        context.is_remote,
    ]


def _state_text(state: TraceState | None) -> str:
    """Return a trace state as it is packed."""
    return state.to_header() if state else ""


_SCOPES: Final = 256
_scopes: Final[dict[int, tuple[object, list[object] | None]]] = {}


def scope_row(scope: Any) -> list[object] | None:  # noqa: ANN401  # the SDK's, of any release
    """Return a scope as it is packed, cached by identity."""
    # The cache holds the scope, so that its id is not given to another object.
    found = _scopes.get(id(scope))
    if found is not None and found[0] is scope:
        return found[1]
    row = None
    if scope is not None:
        row = [
            sanitize(scope.name),
            sanitize(scope.version),
            sanitize(scope.schema_url),
            sanitize(getattr(scope, "attributes", None) or None),
        ]
    if len(_scopes) >= _SCOPES:
        _scopes.clear()
    # With the scope itself, which stays alive: no other object can get its id.
    _scopes[id(scope)] = (scope, row)
    return row


# The slow way: for what msgpack does not know, and for what is too large.


def _carefully(span: ReadableSpan, limit: int) -> bytes:
    """Pack a span cleaned, with what there is room for: attributes, then links, then events."""
    context = span.get_span_context()
    if context is None:
        raise ValueError("a span without a context")  # the SDK makes none
    row = _row_of_properties(span, context)
    attributes, links, events = row[ATTRIBUTES], row[LINKS], row[EVENTS]
    row[ATTRIBUTES], row[LINKS], row[EVENTS] = {}, [], []
    room = Room(limit - KEY_BYTES)
    room.take(row)
    _drop(row, ATTRIBUTES, attributes, room.take_items(attributes))
    # Links get at most half of the lists and maps, so that there is room for events.
    _drop(row, LINKS, links, room.take_last(links, MOST // 2))
    _drop(row, EVENTS, events, room.take_last(events))
    return key_of(context) + pack(row)


def _drop(row: list[Any], field: int, found: Collection[Any], kept: Collection[Any]) -> None:
    row[field] = kept
    dropped = row[_DROPPED_AT[field]] = row[_DROPPED_AT[field]] + len(found) - len(kept)
    if len(found) > len(kept):
        say_dropped(row[NAME], _WHAT[field], dropped)


def _row_of_properties(span: ReadableSpan, context: SpanContext) -> list[Any]:
    parent, found = span.parent, span.attributes or {}
    events, links = span.events, span.links
    attributes: dict[str, object] = cast("Any", sanitize(found))
    return [
        sanitize(span.name),
        context.trace_id.to_bytes(16, "big"),
        context.span_id.to_bytes(8, "big"),
        None if parent is None else parent.span_id.to_bytes(8, "big"),
        False if parent is None else bool(parent.is_remote),
        int(context.trace_flags),
        _state_text(context.trace_state),
        span.kind.value,
        sanitize(span.start_time),
        sanitize(span.end_time),
        attributes,
        # Only as many as could fit: cleaning them takes longer than all else.
        [sanitize(_event(event)) for event in events[-MOST:]],
        [sanitize(_link(link)) for link in links[-MOST:]],
        span.status.status_code.value,
        sanitize(span.status.description),
        scope_row(span.instrumentation_scope),
        span.dropped_attributes + len(found) - len(attributes),
        span.dropped_events + len(events[:-MOST]),
        span.dropped_links + len(links[:-MOST]),
    ]
