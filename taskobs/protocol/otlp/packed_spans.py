"""Packed spans as ``Span`` messages: what the relay sends."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any, Final

from taskobs.protocol import frames, validation
from taskobs.protocol.otlp.spans import (
    NO_SCOPE,
    EncodedSpan,
    Frame,
    encode_span,
    resource_frame,
    scope_frame,
)
from taskobs.protocol.span_encoder import SCOPE, unpack_row
from taskobs.protocol.validation import MalformedError

_CACHED: Final = 256
"""Resources and scopes that are kept: a worker has one resource a process, and some scopes."""


class SpanMessages:
    """Encodes packed spans, and keeps resources and scopes encoded. Not thread-safe."""

    def __init__(self) -> None:
        self._resources: dict[bytes, Frame] = {}
        self._scopes: dict[Hashable, Frame] = {}

    def encode(self, packed: bytes, resource_blob: bytes) -> EncodedSpan:
        """Return a span; ``packed`` and ``resource_blob`` are those of a store's ``Item``.

        Raises:
            MalformedError: one of them is malformed.
        """
        try:
            resource = self._resources.get(resource_blob) or self._resource(resource_blob)
            row = unpack_row(packed)
            return EncodedSpan(resource, self._scope(row[SCOPE]), encode_span(row))
        except MalformedError:
            raise
        except (ValueError, TypeError, AttributeError, LookupError) as error:  # FrameError as well
            raise MalformedError(f"{type(error).__name__}: {error}") from error

    def _resource(self, blob: bytes) -> Frame:
        attributes, schema_url = frames.unpack(blob)
        found = resource_frame(validation.attributes(attributes), validation.text(schema_url or ""))
        _keep(self._resources, blob, found)
        return found

    def _scope(self, scope: Any) -> Frame:  # noqa: ANN401  # as unpacked
        if scope is None:
            return NO_SCOPE
        name, version, schema_url, attributes = scope
        key = (name, version, schema_url, frames.pack(attributes) if attributes else None)
        found = self._scopes.get(key)
        if found is None:
            found = scope_frame(
                validation.text(name),
                validation.optional(version),
                validation.optional(schema_url),
                validation.attributes(attributes or {}),
            )
            _keep(self._scopes, key, found)
        return found


def _keep(cache: dict[Any, Frame], key: Hashable, value: Frame) -> None:
    # Emptied rather than evicted from: it is never full but for a process with a leak of scopes.
    if len(cache) >= _CACHED:
        cache.clear()
    cache[key] = value
