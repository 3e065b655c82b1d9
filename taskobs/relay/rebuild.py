"""Spans of the SDK again, from what came over the socket or out of the spool."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NoReturn, cast

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import (
    Link,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    TraceState,
)
from opentelemetry.util.types import AttributeValue

from taskobs.relay import frames, packing
from taskobs.relay.frames import FrameError

_KINDS: Final = {kind.value: kind for kind in SpanKind}
_CODES: Final = {code.value: code for code in StatusCode}
_FLAGS: Final = {number: TraceFlags(number) for number in range(256)}
_NO_STATE: Final = TraceState()
_UNSET: Final = Status(StatusCode.UNSET)
_CACHED: Final = 256
"""Resources and scopes that are kept: a worker has one resource a process, and some scopes."""
_DEPTH: Final = 8
_INT64: Final = 1 << 63
_UINT64: Final = 1 << 64


class MalformedError(ValueError):
    """A packed span, or what it is about, isn't what ``packing`` makes."""


class RebuiltSpan(ReadableSpan):
    """A span that has ended elsewhere, with the counts of what was dropped there."""

    def __init__(self, *, dropped: Sequence[int], **fields: Any) -> None:  # noqa: ANN401 - the SDK's
        super().__init__(**fields)
        self._dropped = dropped

    @property
    def dropped_attributes(self) -> int:
        """How many attributes didn't fit."""
        return self._dropped[0]

    @property
    def dropped_events(self) -> int:
        """How many events didn't fit."""
        return self._dropped[1]

    @property
    def dropped_links(self) -> int:
        """How many links didn't fit."""
        return self._dropped[2]


class _Event(Event):
    dropped = 0

    @property
    def dropped_attributes(self) -> int:
        return self.dropped


class _Link(Link):
    dropped = 0

    @property
    def dropped_attributes(self) -> int:
        return self.dropped


class Rebuilder:
    """Makes spans that the stock exporters take; keeps resources and scopes. Not thread-safe."""

    def __init__(self) -> None:
        self._resources: dict[bytes, Resource] = {}
        self._scopes: dict[bytes, InstrumentationScope] = {}

    def span(self, packed: bytes, about: bytes) -> ReadableSpan:
        """Return a span; ``packed`` and ``about`` are those of a ``store.Item``.

        Raises:
            MalformedError: one of them isn't what it should be, in whatever way.
        """
        try:
            row = frames.unpack(packed)
            return self._span(row, self.resource(about))
        except MalformedError:
            raise
        except (FrameError, ValueError, TypeError, AttributeError, LookupError) as error:
            raise MalformedError(f"{type(error).__name__}: {error}") from error

    def resource(self, about: bytes) -> Resource:
        """Return a process's resource; raises as ``span`` does."""
        found = self._resources.get(about)
        if found is None:
            try:
                attributes, schema_url = frames.unpack(about)
            except (ValueError, TypeError) as error:
                raise MalformedError(f"no resource: {error}") from error
            found = Resource(_attributes(attributes), _text(schema_url or ""))
            _keep(self._resources, about, found)
        return found

    def _span(self, row: Any, resource: Resource) -> ReadableSpan:  # noqa: ANN401 - as unpacked
        (
            name,
            trace_id,
            span_id,
            parent_id,
            parent_remote,
            flags,
            state,
            kind,
            start,
            end,
            attributes,
            events,
            links,
            code,
            description,
            scope,
            *dropped,
        ) = row
        if len(row) != packing.FIELDS:
            _wrong(f"{len(row)} fields")
        context = _context(trace_id, span_id, flags, state, remote=False)
        parent = None
        if parent_id is not None:
            parent = _context(trace_id, parent_id, flags, state, remote=bool(parent_remote))
        return RebuiltSpan(
            name=_text(name),
            context=context,
            parent=parent,
            resource=resource,
            attributes=_attributes(attributes),
            events=[_event(*event) for event in events],
            links=[_link(link) for link in links],
            kind=_KINDS[kind],
            status=_status(code, description),
            start_time=_number(start),
            end_time=_number(end),
            instrumentation_scope=self._scope(scope),
            dropped=[_count(number) for number in dropped],
        )

    def _scope(self, scope: Any) -> InstrumentationScope | None:  # noqa: ANN401 - as unpacked
        if scope is None:
            return None
        about = frames.pack(scope)
        found = self._scopes.get(about)
        if found is None:
            name, version, schema_url, attributes = scope
            texts = (_text(name), _optional(version), _optional(schema_url))
            found = InstrumentationScope(*texts, _attributes(attributes) if attributes else None)
            _keep(self._scopes, about, found)
        return found


def _keep(cache: dict[bytes, Any], key: bytes, value: object) -> None:
    if len(cache) >= _CACHED:
        cache.clear()
    cache[key] = value


def _context(trace_id: Any, span_id: Any, flags: Any, state: Any, *, remote: bool) -> SpanContext:  # noqa: ANN401 - as unpacked
    if len(trace_id) != 16 or len(span_id) != 8:  # noqa: PLR2004 - the standard's sizes
        _wrong("ids of other lengths")
    return SpanContext(
        int.from_bytes(trace_id, "big"),
        int.from_bytes(span_id, "big"),
        remote,
        _FLAGS[flags],
        TraceState.from_header([state]) if state else _NO_STATE,
    )


def _event(name: Any, timestamp: Any, attributes: Any, dropped: Any) -> Event:  # noqa: ANN401 - as unpacked
    event = _Event(_text(name), _attributes(attributes), _number(timestamp))
    event.dropped = _count(dropped)
    return event


def _link(packed: Any) -> Link:  # noqa: ANN401 - as unpacked
    trace_id, span_id, flags, state, attributes, dropped, remote = packed
    context = _context(trace_id, span_id, flags, state, remote=bool(remote))
    link = _Link(context, _attributes(attributes))
    link.dropped = _count(dropped)
    return link


def _status(code: Any, description: Any) -> Status:  # noqa: ANN401 - as unpacked
    if code == StatusCode.UNSET.value:
        return _UNSET
    status = _CODES[code]
    # The SDK warns of a description beside another code than ERROR, and leaves it out.
    return Status(status, _optional(description) if status is StatusCode.ERROR else None)


def _attributes(attributes: Any) -> dict[str, AttributeValue]:  # noqa: ANN401 - as unpacked
    pairs = attributes.items()  # whatever has none is refused
    return {_text(key): _value(value, _DEPTH) for key, value in pairs if value is not None}


def _value(value: Any, depth: int) -> Any:  # noqa: ANN401 - as unpacked
    if isinstance(value, int) and not -_INT64 <= value < _INT64:
        return str(value)  # OTLP has signed ones of 64 bits
    if isinstance(value, list):
        if not depth:
            _wrong("attributes nested too deep")
        return [_value(one, depth - 1) for one in cast("Iterable[Any]", value)]
    if isinstance(value, dict):
        if not depth:
            _wrong("attributes nested too deep")
        pairs = cast("Mapping[Any, Any]", value)
        return {_text(key): _value(one, depth - 1) for key, one in pairs.items()}
    return value


def _text(value: Any) -> str:  # noqa: ANN401 - as unpacked
    if not isinstance(value, str):
        _wrong(f"{type(value).__name__} in the place of a text")
    return value


def _optional(value: Any) -> str | None:  # noqa: ANN401 - as unpacked
    return None if value is None else _text(value)


def _number(value: Any) -> int:  # noqa: ANN401 - as unpacked
    if not isinstance(value, int) or not 0 <= value < _UINT64:
        _wrong("no time")
    return value


def _count(value: Any) -> int:  # noqa: ANN401 - as unpacked
    return min(_number(value), 0xFFFF_FFFF)


def _wrong(what: str) -> NoReturn:
    raise MalformedError(f"no packed span: {what}")
