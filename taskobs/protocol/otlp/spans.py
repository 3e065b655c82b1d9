"""Spans as an OTLP ``ExportTraceServiceRequest``, from rows as ``span_encoder`` packs them.

It has what OpenTelemetry's exporter sends for the same spans, in a tenth of the time: no objects of
the SDK or of protobuf are made.
https://github.com/open-telemetry/opentelemetry-proto/blob/main/opentelemetry/proto/trace/v1/trace.proto
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from taskobs.protocol import validation
from taskobs.protocol.otlp.attributes import encode_attributes
from taskobs.protocol.otlp.wire_format import (
    BYTES,
    FIXED32,
    FIXED64,
    fixed64,
    message,
    number,
    tag,
    text,
    varint,
)

_FLAGS: Final = {
    remote: (0x300 if remote else 0x100).to_bytes(4, "little") for remote in (True, False)
}
"""``SpanFlags``: it is known whether the parent is remote, and whether it is."""
_SPAN_FLAGS: Final = {remote: tag(16, FIXED32) + flags for remote, flags in _FLAGS.items()}
_LINK_FLAGS: Final = {remote: tag(6, FIXED32) + flags for remote, flags in _FLAGS.items()}
_TRACE_ID, _SPAN_ID = message(1, bytes(16))[:2], message(2, bytes(8))[:2]
_PARENT_ID: Final = message(4, bytes(8))[:2]
"""What comes before ids, whose lengths are known."""
_SPAN: Final = tag(2, BYTES)
_KINDS: Final = {kind: number(6, kind + 1) for kind in range(5)}  # 0 is "unspecified" there
_ATTRIBUTES: Final = 9
_START, _END = 7 << 3 | FIXED64, 8 << 3 | FIXED64
_pack_times: Final = struct.Struct("<BQBQ").pack
_UNSET: Final = message(15, b"")
_STATUS: Final = {code: message(15, number(3, code)) for code in range(3)}
_ERROR: Final = 2
_TRACE_FLAGS: Final = range(256)
_NONE_DROPPED: Final = [0, 0, 0]
_ENCODED_AS_THEY_ARE: Final = frozenset({str, bool, int, float, bytes})
"""Types of attributes that need no check before: the encoder has a place for each such value."""
_NAMES: Final = 1024
"""Short names that are kept encoded; emptied when full, as a name may have data in it."""
_SHORT: Final = 128
_PARTS: Final = frozenset({list, tuple})
_SETS: Final = 1024
"""Sets of shared attributes that are kept encoded: a process has one for each task and route."""
_SHORT_SET: Final = 4096
"""Bytes: a set of a usual task has less than a fourth of it."""
_REST: Final = (3, 4, 5)
"""Fields after the scope: three counts of what was dropped, then perhaps a route or a mark."""


class _Names(dict[str, bytes]):
    def __missing__(self, name: str) -> bytes:
        found = text(5, validation.text(name))
        if len(found) < _SHORT:
            if len(self) >= _NAMES:
                self.clear()
            self[name] = found
        return found


_names: Final = _Names()


class Frame(NamedTuple):
    """What OTLP writes before and after the spans of a resource or scope."""

    before: bytes
    after: bytes


NO_SCOPE: Final = Frame(message(1, b""), b"")


class EncodedSpan(NamedTuple):
    """A ``Span`` message, with the resource and scope that it is of."""

    resource: Frame
    scope: Frame
    message: bytes


def resource_frame(attributes: Mapping[str, Any], schema_url: str) -> Frame:
    """Return what ``ResourceSpans`` has beside its scopes."""
    return Frame(message(1, encode_attributes(1, attributes)), text(3, schema_url))


def scope_frame(
    name: str, version: str | None, schema_url: str | None, attributes: Mapping[str, Any]
) -> Frame:
    """Return what ``ScopeSpans`` has beside its spans."""
    named = text(1, name) + text(2, version) + encode_attributes(3, attributes)
    return Frame(message(1, named), text(3, schema_url))


def encode_request(spans: Iterable[EncodedSpan]) -> bytes:
    """Return a request that has these spans, by resource and scope."""
    groups: dict[Frame, dict[Frame, list[bytes]]] = {}
    for resource, scope, span in spans:
        groups.setdefault(resource, {}).setdefault(scope, []).extend(
            (_SPAN, varint(len(span)), span)
        )
    found: list[bytes] = []
    for (before, after), scopes in groups.items():
        inner = [message(2, b"".join((head, *of, tail))) for (head, tail), of in scopes.items()]
        found.append(message(1, b"".join((before, *inner, after))))
    return b"".join(found)


def encode_span(row: Sequence[Any]) -> bytes:
    """Return the ``Span`` message of a row with the fields that ``span_encoder`` names.

    Raises:
        MalformedError: a field is not what it should be; or what Python raises for it.
    """
    name, trace_id, span_id, parent_id, parent_is_remote, flags, state, kind, start, end = row[:10]
    attributes, events, links, code, description, _, *rest = row[10:]
    shared = b""
    if type(attributes) in _PARTS:
        packed, attributes = attributes
        found = _shared.get(packed) or _encode_shared(packed)
        if found.keys.isdisjoint(attributes):
            shared = found.message
        else:  # a signal's exception, or a thread, while a fast span took them for its own
            attributes = {**found.attributes, **attributes}
    if len(rest) not in _REST or flags not in _TRACE_FLAGS:
        validation.wrong(f"{len(row)} fields, flags {flags}")
    if not _ENCODED_AS_THEY_ARE.issuperset(map(type, attributes.values())):
        attributes = validation.attributes(attributes)
    dropped = rest[:3]
    return b"".join(
        (
            *(_TRACE_ID, _trace_id(trace_id), _SPAN_ID, _span_id(span_id)),
            _state(state) if state else b"",
            b"" if parent_id is None else _PARENT_ID + _span_id(parent_id),
            _names[name],
            _KINDS[kind],
            _times(start, end),
            shared,
            encode_attributes(_ATTRIBUTES, attributes),
            *([_event(*event) for event in events] if events else ()),
            *([_link(*link) for link in links] if links else ()),
            b"" if dropped == _NONE_DROPPED else _dropped(*dropped),
            _status(code, description) if code else _UNSET,
            _SPAN_FLAGS[parent_id is not None and bool(parent_is_remote)],
        )
    )


class _Shared(NamedTuple):
    """Attributes that many spans share."""

    attributes: Mapping[str, Any]
    keys: frozenset[str]
    message: bytes
    """As each ``Span`` message has them."""


_shared: Final[dict[bytes, _Shared]] = {}


def _encode_shared(packed: bytes) -> _Shared:
    from taskobs.protocol import frames  # here: a command's publish shares none

    attributes = validation.attributes(frames.unpack(packed))
    message = encode_attributes(_ATTRIBUTES, attributes)
    found = _Shared(attributes, frozenset(attributes), message)
    if len(packed) <= _SHORT_SET:
        if len(_shared) >= _SETS:
            _shared.clear()
        _shared[packed] = found
    return found


def _times(start: int, end: int) -> bytes:
    try:
        return _pack_times(_START, start, _END, end)
    except struct.error:
        validation.wrong("no time")


def _dropped(attributes: int, events: int, links: int) -> bytes:
    """Return how many of each did not fit."""
    counts = ((10, attributes), (12, events), (14, links))
    return b"".join([number(field, validation.count(count)) for field, count in counts])


def _trace_id(trace_id: bytes) -> bytes:
    if len(trace_id) != 16:  # noqa: PLR2004  # the standard's size
        validation.wrong("a trace id of another length")
    return trace_id


def _span_id(span_id: bytes) -> bytes:
    if len(span_id) != 8:  # noqa: PLR2004  # the standard's size
        validation.wrong("a span id of another length")
    return span_id


def _state(state: str) -> bytes:
    """Return a trace state without what is no member of one."""
    from opentelemetry.trace import TraceState  # few spans have one, and a command has no API

    return text(3, TraceState.from_header([state]).to_header())


def _event(name: Any, timestamp: Any, attributes: Any, dropped: Any) -> bytes:  # noqa: ANN401  # as unpacked
    return message(
        11,
        b"".join(
            (
                fixed64(1, validation.number(timestamp)),
                text(2, validation.text(name)),
                encode_attributes(3, validation.attributes(attributes)),
                number(4, validation.count(dropped)),
            )
        ),
    )


def _link(  # noqa: PLR0913, PLR0917  # the fields of its row
    trace_id: Any,  # noqa: ANN401  # as unpacked
    span_id: Any,  # noqa: ANN401  # same
    flags: Any,  # noqa: ANN401  # same
    state: Any,  # noqa: ANN401  # same
    attributes: Any,  # noqa: ANN401  # same
    dropped: Any,  # noqa: ANN401  # same
    is_remote: Any,  # noqa: ANN401  # same
) -> bytes:
    if flags not in _TRACE_FLAGS:
        validation.wrong(f"flags {flags}")
    validation.text(state)  # the exporter leaves it out
    return message(
        13,
        b"".join(
            (
                *(_TRACE_ID, _trace_id(trace_id), _SPAN_ID, _span_id(span_id)),
                encode_attributes(4, validation.attributes(attributes)),
                number(5, validation.count(dropped)),
                _LINK_FLAGS[bool(is_remote)],
            )
        ),
    )


def _status(code: int, description: str | None) -> bytes:
    """Return a status; only an error may have a description."""
    if code != _ERROR or description is None:
        return _STATUS[code]
    return message(15, text(2, validation.text(description)) + number(3, code))
