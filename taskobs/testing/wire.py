"""Decodes what the receiver gets, OTLP protobuf and Sentry envelopes, into plain records."""

from __future__ import annotations

import importlib
import json
import zlib
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import TYPE_CHECKING, TypeAlias, cast

from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
    from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord
    from opentelemetry.proto.trace.v1.trace_pb2 import Span

SPAN_KINDS = ("unspecified", "internal", "server", "client", "producer", "consumer")
STATUSES = ("unset", "ok", "error")
ZLIB_OR_GZIP = 47
"""``wbits`` that let zlib tell the two apart by their headers."""


class MalformedError(ValueError):
    """A body that is not what its path promises."""


class TooLargeError(ValueError):
    """A body above the receiver's bound."""


class UnknownEncodingError(ValueError):
    """A ``Content-Encoding`` that can't be undone here."""


REFUSALS: dict[type[ValueError], HTTPStatus] = {
    MalformedError: HTTPStatus.BAD_REQUEST,
    TooLargeError: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    UnknownEncodingError: HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
}
"""How a body that can't be decoded is answered."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceivedMoment:
    """An event inside a span, such as ``exception``; time in nanoseconds since the epoch."""

    name: str
    time_ns: int
    attributes: Mapping[str, object]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceivedLink:
    """A span's link to another one; ids in lower-case hex."""

    trace_id: str
    span_id: str
    attributes: Mapping[str, object]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceivedSpan:
    """One finished span; ids in lower-case hex, times in nanoseconds since the epoch."""

    trace_id: str
    span_id: str
    parent_id: str = ""
    """Empty for the root of a trace."""
    name: str
    kind: str = "internal"
    start_ns: int
    end_ns: int
    attributes: Mapping[str, object] = field(default_factory=dict[str, object])
    events: tuple[ReceivedMoment, ...] = ()
    links: tuple[ReceivedLink, ...] = ()
    status: str = "unset"
    """``unset``, ``ok`` or ``error``."""
    message: str = ""
    """The status' description."""
    resource: Mapping[str, object] = field(default_factory=dict[str, object])
    scope: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceivedLog:
    """One log record; ids in lower-case hex, empty if there are none."""

    body: object
    severity: int
    severity_text: str
    time_ns: int
    observed_ns: int
    trace_id: str
    span_id: str
    flags: int
    attributes: Mapping[str, object]
    dropped_attributes: int
    resource: Mapping[str, object]
    scope: str
    """The name of its logger."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceivedEvent:
    """One Sentry error event, as its JSON."""

    event_id: str
    data: Mapping[str, object]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceivedItem:
    """Any other item of an envelope (``check_in``, ``client_report``, …)."""

    kind: str
    data: Mapping[str, object]


Received: TypeAlias = ReceivedSpan | ReceivedLog | ReceivedEvent | ReceivedItem
"""Anything that a receiver gets."""


def decompress(body: bytes, encoding: str, limit: int) -> bytes:
    """Undo a ``Content-Encoding``; raises one of this module's errors."""
    if encoding in {"", "identity"}:
        return body
    if encoding in {"gzip", "x-gzip", "deflate"}:
        return _inflate(body, limit)
    if encoding == "br":
        return _unbrotli(body, limit)
    raise UnknownEncodingError(encoding)


def _inflate(body: bytes, limit: int) -> bytes:
    stream = zlib.decompressobj(ZLIB_OR_GZIP)
    try:
        plain = stream.decompress(body, limit + 1)
    except zlib.error as error:
        raise MalformedError(str(error)) from error
    if len(plain) > limit:
        raise TooLargeError
    if not stream.eof:
        msg = "the compressed body ends early"
        raise MalformedError(msg)
    return plain


def _unbrotli(body: bytes, limit: int) -> bytes:
    """Sentry's SDK compresses with brotli where that is installed; then it is here too."""
    try:
        brotli = importlib.import_module("brotli")
    except ModuleNotFoundError as error:
        raise UnknownEncodingError("br") from error
    try:
        plain = cast("bytes", brotli.decompress(body))
    except brotli.error as error:
        raise MalformedError(str(error)) from error
    if len(plain) > limit:
        raise TooLargeError
    return plain


def spans(body: bytes) -> list[ReceivedSpan]:
    """Decode an OTLP trace export; raises `MalformedError`."""
    try:
        request = ExportTraceServiceRequest.FromString(body)
    except DecodeError as error:
        raise MalformedError(str(error)) from error
    return [
        _span(span, _mapping(resource.resource.attributes), scope.scope.name)
        for resource in request.resource_spans
        for scope in resource.scope_spans
        for span in scope.spans
    ]


def logs(body: bytes) -> list[ReceivedLog]:
    """Decode an OTLP log export; raises `MalformedError`."""
    try:
        request = ExportLogsServiceRequest.FromString(body)
    except DecodeError as error:
        raise MalformedError(str(error)) from error
    return [
        _log(record, _mapping(resource.resource.attributes), scope.scope.name)
        for resource in request.resource_logs
        for scope in resource.scope_logs
        for record in scope.log_records
    ]


def _log(record: LogRecord, resource: Mapping[str, object], scope: str) -> ReceivedLog:
    return ReceivedLog(
        body=_value(record.body),
        severity=record.severity_number,
        severity_text=record.severity_text,
        time_ns=record.time_unix_nano,
        observed_ns=record.observed_time_unix_nano,
        trace_id=record.trace_id.hex(),
        span_id=record.span_id.hex(),
        flags=record.flags,
        attributes=_mapping(record.attributes),
        dropped_attributes=record.dropped_attributes_count,
        resource=resource,
        scope=scope,
    )


def _span(span: Span, resource: Mapping[str, object], scope: str) -> ReceivedSpan:
    return ReceivedSpan(
        trace_id=span.trace_id.hex(),
        span_id=span.span_id.hex(),
        parent_id=span.parent_span_id.hex(),
        name=span.name,
        kind=_word(SPAN_KINDS, span.kind),
        start_ns=span.start_time_unix_nano,
        end_ns=span.end_time_unix_nano,
        attributes=_mapping(span.attributes),
        events=tuple(
            ReceivedMoment(
                name=event.name,
                time_ns=event.time_unix_nano,
                attributes=_mapping(event.attributes),
            )
            for event in span.events
        ),
        links=tuple(
            ReceivedLink(
                trace_id=link.trace_id.hex(),
                span_id=link.span_id.hex(),
                attributes=_mapping(link.attributes),
            )
            for link in span.links
        ),
        status=_word(STATUSES, span.status.code),
        message=span.status.message,
        resource=resource,
        scope=scope,
    )


def _word(words: tuple[str, ...], number: int) -> str:
    return words[number] if 0 <= number < len(words) else str(number)


def _mapping(pairs: Iterable[KeyValue]) -> dict[str, object]:
    return {pair.key: _value(pair.value) for pair in pairs}


def _value(value: AnyValue) -> object:
    match value.WhichOneof("value"):
        case None:
            return None
        case "array_value":
            return [_value(item) for item in value.array_value.values]
        case "kvlist_value":
            return _mapping(value.kvlist_value.values)
        case "bytes_value":
            return value.bytes_value.hex()
        case name:
            return cast("object", getattr(value, name))


def envelope(body: bytes) -> list[ReceivedEvent | ReceivedItem]:
    """Decode a Sentry envelope; raises `MalformedError`.

    https://develop.sentry.dev/sdk/data-model/envelopes/
    """
    head, _, rest = body.partition(b"\n")
    header = _json(head)
    return [_item(header, kind, payload) for kind, payload in _items(rest)]


def _items(rest: bytes) -> Iterator[tuple[str, bytes]]:
    while rest.strip():
        head, _, rest = rest.partition(b"\n")
        header = _json(head)
        length = header.get("length")
        if length is None:
            payload, _, rest = rest.partition(b"\n")
        elif isinstance(length, int) and 0 <= length <= len(rest):
            payload, rest = rest[:length], rest[length:].removeprefix(b"\n")
        else:
            msg = f"an item of length {length!r} in {len(rest)} bytes"
            raise MalformedError(msg)
        yield str(header.get("type")), payload


def _item(header: Mapping[str, object], kind: str, payload: bytes) -> ReceivedEvent | ReceivedItem:
    if kind == "attachment":
        return ReceivedItem(kind=kind, data={"bytes": len(payload)})
    data = _json(payload)
    if kind != "event":
        return ReceivedItem(kind=kind, data=data)
    return ReceivedEvent(event_id=str(data.get("event_id", header.get("event_id", ""))), data=data)


def _json(text: bytes) -> dict[str, object]:
    try:
        value: object = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise MalformedError(str(error)) from error
    if not isinstance(value, dict):
        msg = f"an object was expected, not {type(value).__name__}"
        raise MalformedError(msg)
    return cast("dict[str, object]", value)
