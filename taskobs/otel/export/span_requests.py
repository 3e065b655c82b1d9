"""Spans that have ended as OTLP requests, without the SDK's and protobuf's objects."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from opentelemetry.sdk.trace import ReadableSpan

from taskobs.otel._sdk_compat import quick_fields
from taskobs.otel.fast_spans import FastSpan
from taskobs.protocol import frames
from taskobs.protocol.otlp.spans import (
    NO_SCOPE,
    EncodedSpan,
    Frame,
    encode_request,
    encode_span,
    resource_frame,
    scope_frame,
)
from taskobs.protocol.sanitize import UNEXPECTED, sanitize
from taskobs.protocol.span_encoder import SCOPE, pack_end, public_fields, row_of, split

_CACHED: Final = 256
"""Scopes that are kept."""


def sdk_spans(spans: Sequence[ReadableSpan]) -> list[ReadableSpan]:
    """Return spans as an exporter takes them."""
    return [one.as_sdk_span() if type(one) is FastSpan else one for one in spans]


class SpanRequests:
    """Encodes spans that have ended, and keeps scopes encoded. Not thread-safe."""

    def __init__(self) -> None:
        # By identity, with the object itself, so that its id is not given to another one. The
        # hash of the SDK's resources makes JSON of them each time (seen in 1.45).
        self._scopes: dict[int, tuple[object, Frame]] = {}
        self._resources: dict[int, tuple[object, Frame]] = {}

    def encode(self, spans: Sequence[ReadableSpan]) -> bytes:
        """Return a request with these spans; fast spans are read from their rows."""
        self._resources.clear()  # the attributes of a ``LateResource`` may have changed
        return encode_request([self._encoded(one) for one in spans])

    def _encoded(self, span: ReadableSpan) -> EncodedSpan:
        if type(span) is FastSpan:
            row: Sequence[Any] = span.fast_row
        else:
            try:
                row = row_of(quick_fields(span))
            except UNEXPECTED:  # without these private names
                row = row_of(public_fields(span))
        try:
            message = encode_span(row)
        except UNEXPECTED:  # half of a surrogate pair, or what else OTLP has no place for
            [readable] = sdk_spans([span])
            row = frames.unpack(split(pack_end(readable))[1])
            message = encode_span(row)
        return EncodedSpan(self._resource_of(span), self._scope(row[SCOPE]), message)

    def _resource_of(self, span: ReadableSpan) -> Frame:
        resource = span.resource
        found = self._resources.get(id(resource))
        if found is not None and found[0] is resource:
            return found[1]
        try:
            frame = resource_frame(resource.attributes, resource.schema_url)
        except UNEXPECTED:
            cleaned: Any = sanitize(resource.attributes)
            frame = resource_frame(cleaned, resource.schema_url)
        self._resources[id(resource)] = resource, frame
        return frame

    def _scope(self, scope: Any) -> Frame:  # noqa: ANN401  # as it is packed
        if scope is None:
            return NO_SCOPE
        found = self._scopes.get(id(scope))
        if found is not None and found[0] is scope:
            return found[1]
        name, version, schema_url, attributes = scope
        frame = scope_frame(name, version, schema_url, attributes or {})
        if len(self._scopes) >= _CACHED:
            self._scopes.clear()
        self._scopes[id(scope)] = scope, frame
        return frame
