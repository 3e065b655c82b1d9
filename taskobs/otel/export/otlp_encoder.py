"""Spans as an OTLP request, in protobuf, without the packages of protobuf.

They take three times as long to import as the rest of the SDK.
https://github.com/open-telemetry/opentelemetry-proto/blob/main/opentelemetry/proto/trace/v1/trace.proto
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, cast

if TYPE_CHECKING:  # a command's publish is encoded without the SDK: see `plain_span`
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import Event, ReadableSpan
    from opentelemetry.sdk.util.instrumentation import InstrumentationScope
    from opentelemetry.trace import Link, SpanContext

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
"""Protobuf's wire types."""
_64_BITS: Final = (1 << 64) - 1
_7_BITS: Final = 0x7F
_MORE: Final = 0x80
_HAS_IS_REMOTE: Final = 0x100
_IS_REMOTE: Final = 0x200


def encode(spans: Sequence[ReadableSpan]) -> bytes:
    """Return an ``ExportTraceServiceRequest``.

    Raises:
        TypeError: an attribute has a value of no type that is encoded here.
    """
    groups: dict[Resource, dict[InstrumentationScope | None, list[bytes]]] = {}
    for span in spans:
        scopes = groups.setdefault(span.resource, {})
        scopes.setdefault(span.instrumentation_scope, []).append(_span(span))
    return b"".join(_message(1, _resource_spans(*group)) for group in groups.items())


def _resource_spans(
    resource: Resource, scopes: Mapping[InstrumentationScope | None, list[bytes]]
) -> bytes:
    return (
        _message(1, _attributes(1, resource.attributes))
        + b"".join(_message(2, _scope_spans(*group)) for group in scopes.items())
        + _text(3, resource.schema_url)
    )


def _scope_spans(scope: InstrumentationScope | None, spans: Iterable[bytes]) -> bytes:
    found = b"".join(_message(2, span) for span in spans)
    if scope is None:
        return _message(1, b"") + found
    named = _text(1, scope.name) + _text(2, scope.version)
    return (
        _message(1, named + _attributes(3, scope.attributes)) + found + _text(3, scope.schema_url)
    )


def _span(span: ReadableSpan) -> bytes:
    context, status = span.get_span_context(), span.status
    if context is None:
        raise TypeError("a span without a context")
    parts = (
        _ids(context),
        _text(3, context.trace_state.to_header()),
        b"" if span.parent is None else _message(4, span.parent.span_id.to_bytes(8, "big")),
        _text(5, span.name),
        _number(6, span.kind.value + 1),  # 0 is "unspecified" there
        _fixed64(7, span.start_time or 0),
        _fixed64(8, span.end_time or 0),
        _attributes(9, span.attributes),
        _number(10, span.dropped_attributes),
        *(_message(11, _event(event)) for event in span.events),
        _number(12, span.dropped_events),
        *(_message(13, _link(link)) for link in span.links),
        _number(14, span.dropped_links),
        _message(15, _text(2, status.description) + _number(3, status.status_code.value)),
        _flags(16, span.parent),
    )
    return b"".join(parts)


def _event(event: Event) -> bytes:
    named = _fixed64(1, event.timestamp) + _text(2, event.name)
    return named + _attributes(3, event.attributes) + _number(4, event.dropped_attributes)


def _link(link: Link) -> bytes:
    kept = _attributes(4, link.attributes) + _number(5, link.dropped_attributes)
    return _ids(link.context) + kept + _flags(6, link.context)


def _ids(context: SpanContext) -> bytes:
    return _message(1, context.trace_id.to_bytes(16, "big")) + _message(
        2, context.span_id.to_bytes(8, "big")
    )


def _attributes(field: int, attributes: Mapping[str, Any] | None) -> bytes:
    pairs = (attributes or {}).items()
    return b"".join(
        _message(field, _text(1, key) + _message(2, _value(value))) for key, value in pairs
    )


def _value(value: object) -> bytes:
    """Return an ``AnyValue``; which of its fields is set is told also where that is empty."""
    if isinstance(value, str):
        return _message(1, value.encode())
    if isinstance(value, bool):
        return _tag(2, _VARINT) + _varint(value)
    if isinstance(value, int):
        return _tag(3, _VARINT) + _varint(value & _64_BITS)
    if isinstance(value, float):
        return _tag(4, _FIXED64) + struct.pack("<d", value)
    if isinstance(value, (list, tuple)):
        items = cast("Sequence[object]", value)
        return _message(5, b"".join(_message(1, _value(item)) for item in items))
    raise TypeError(f"an attribute of type {type(value).__name__}")


# What is empty or 0 is left out, as protobuf does.


def _text(field: int, text: str | None) -> bytes:
    return _message(field, text.encode()) if text else b""


def _number(field: int, number: int) -> bytes:
    return _tag(field, _VARINT) + _varint(number) if number else b""


def _fixed64(field: int, number: int) -> bytes:
    return _tag(field, _FIXED64) + struct.pack("<Q", number) if number else b""


def _flags(field: int, parent: SpanContext | None) -> bytes:
    remote = parent is not None and parent.is_remote
    flags = _HAS_IS_REMOTE | _IS_REMOTE if remote else _HAS_IS_REMOTE
    return _tag(field, _FIXED32) + struct.pack("<I", flags)


def _message(field: int, content: bytes) -> bytes:
    return _tag(field, _BYTES) + _varint(len(content)) + content


def _tag(field: int, wire_type: int) -> bytes:
    return _varint(field << 3 | wire_type)


def _varint(number: int) -> bytes:
    found = bytearray()
    while number > _7_BITS:
        found.append(number & _7_BITS | _MORE)
        number >>= 7
    found.append(number)
    return bytes(found)
