"""Turns packed spans back into spans that the SDK's exporters take."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any, Final

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

from taskobs.protocol import frames, span_encoder, validation
from taskobs.protocol.frames import FrameError
from taskobs.protocol.validation import MalformedError

_SPAN_KINDS: Final = {kind.value: kind for kind in SpanKind}
_CODES: Final = {code.value: code for code in StatusCode}
_FLAGS: Final = {number: TraceFlags(number) for number in range(256)}
_NO_STATE: Final = TraceState()
_UNSET: Final = Status(StatusCode.UNSET)
_CACHED: Final = 256
"""Resources and scopes that are kept: a worker has one resource a process, and some scopes."""
_COUNTS: Final = 3
_NOTHING: Final = (0, 0, 0)


class DecodedSpan(ReadableSpan):
    """A span that has ended in another process."""

    dropped: Sequence[int] = _NOTHING
    """How many attributes, events and links were dropped in that process."""

    @property
    def dropped_attributes(self) -> int:
        """How many attributes didn't fit."""
        return self.dropped[0]

    @property
    def dropped_events(self) -> int:
        """How many events didn't fit."""
        return self.dropped[1]

    @property
    def dropped_links(self) -> int:
        """How many links didn't fit."""
        return self.dropped[2]


class _Resource(Resource):
    """A resource that is compared by identity; ``SpanDecoder`` makes one for each content.

    The OTLP encoder groups spans by resource, and the SDK's ``Resource.__hash__`` serialises all
    attributes to JSON, once for each span (seen in 1.45).
    """

    __hash__ = object.__hash__

    def __eq__(self, other: object) -> bool:
        return self is other


class _Scope(InstrumentationScope):
    """A scope that is compared by identity, as ``_Resource`` is."""

    __slots__ = ()
    __hash__ = object.__hash__

    def __eq__(self, value: object) -> bool:
        return self is value


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


class SpanDecoder:
    """Decodes spans, and keeps one object for each resource and scope. Not thread-safe."""

    def __init__(self) -> None:
        self._resources: dict[bytes, Resource] = {}
        self._scopes: dict[Hashable, InstrumentationScope] = {}

    def span(self, packed: bytes, resource_blob: bytes) -> ReadableSpan:
        """Return a span; ``packed`` and ``resource_blob`` are those of a store's ``Item``.

        Raises:
            MalformedError: one of them is malformed.
        """
        try:
            row = span_encoder.unpack_whole_row(packed)
            return self._span(row, self.resource(resource_blob))
        except MalformedError:
            raise
        except (FrameError, ValueError, TypeError, AttributeError, LookupError) as error:
            raise MalformedError(f"{type(error).__name__}: {error}") from error

    def resource(self, resource_blob: bytes) -> Resource:
        """Return a process's resource; raises as ``span`` does."""
        found = self._resources.get(resource_blob)
        if found is None:
            try:
                attributes, schema_url = frames.unpack(resource_blob)
            except (ValueError, TypeError) as error:
                raise MalformedError(f"no resource: {error}") from error
            found = _Resource(validation.attributes(attributes), validation.text(schema_url or ""))
            _keep(self._resources, resource_blob, found)
        return found

    def _span(self, row: Any, resource: Resource) -> ReadableSpan:  # noqa: ANN401  # as unpacked
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
            *rest,
        ) = row
        if len(row) - span_encoder.FIELDS not in {0, 1, 2}:  # a route or a mark may come last
            validation.wrong(f"{len(row)} fields")
        dropped = rest[:_COUNTS]
        context = _context(trace_id, span_id, flags, state, remote=False)
        parent = None
        if parent_id is not None:
            parent = _context(trace_id, parent_id, flags, state, remote=bool(parent_remote))
        span = DecodedSpan(
            name=validation.text(name),
            context=context,
            parent=parent,
            resource=resource,
            attributes=validation.attributes(attributes),
            events=[_event(*event) for event in events],
            links=[_link(link) for link in links],
            kind=_SPAN_KINDS[kind],
            status=_status(code, description),
            start_time=validation.number(start),
            end_time=validation.number(end),
            instrumentation_scope=self._scope(scope),
        )
        if any(dropped):
            span.dropped = [validation.count(number) for number in dropped]
        return span

    def _scope(self, scope: Any) -> InstrumentationScope | None:  # noqa: ANN401  # as unpacked
        if scope is None:
            return None
        name, version, schema_url, attributes = scope
        key = (name, version, schema_url, frames.pack(attributes) if attributes else None)
        found = self._scopes.get(key)
        if found is None:
            texts = (
                validation.text(name),
                validation.optional(version),
                validation.optional(schema_url),
            )
            found = _Scope(*texts, validation.attributes(attributes) if attributes else None)
            _keep(self._scopes, key, found)
        return found


def _keep(cache: dict[Any, Any], key: Hashable, value: object) -> None:
    # Emptied rather than evicted from: it is never full but for a process with a leak of scopes.
    if len(cache) >= _CACHED:
        cache.clear()
    cache[key] = value


def _context(trace_id: Any, span_id: Any, flags: Any, state: Any, *, remote: bool) -> SpanContext:  # noqa: ANN401  # as unpacked
    if len(trace_id) != 16 or len(span_id) != 8:  # noqa: PLR2004  # the standard's sizes
        validation.wrong("ids of other lengths")
    return SpanContext(
        int.from_bytes(trace_id, "big"),
        int.from_bytes(span_id, "big"),
        remote,
        _FLAGS[flags],
        TraceState.from_header([state]) if state else _NO_STATE,
    )


def _event(name: Any, timestamp: Any, attributes: Any, dropped: Any) -> Event:  # noqa: ANN401  # as unpacked
    event = _Event(
        validation.text(name), validation.attributes(attributes), validation.number(timestamp)
    )
    event.dropped = validation.count(dropped)
    return event


def _link(packed: Any) -> Link:  # noqa: ANN401  # as unpacked
    trace_id, span_id, flags, state, attributes, dropped, remote = packed
    context = _context(trace_id, span_id, flags, state, remote=bool(remote))
    link = _Link(context, validation.attributes(attributes))
    link.dropped = validation.count(dropped)
    return link


def _status(code: Any, description: Any) -> Status:  # noqa: ANN401  # as unpacked
    if code == StatusCode.UNSET.value:
        return _UNSET
    status = _CODES[code]
    # With another code than ERROR, the SDK logs a warning and leaves the description out.
    return Status(status, validation.optional(description) if status is StatusCode.ERROR else None)
