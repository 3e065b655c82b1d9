"""Sends each span to the relay when it starts and when it ends."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from typing import Any, Final

from opentelemetry.context import Context
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor

from taskobs.internal.guard import Guard
from taskobs.model.attributes import Parts
from taskobs.otel._sdk_compat import quick_fields
from taskobs.otel.fast_spans import Attributes, FastSpan, PackedStart
from taskobs.protocol.frames import FrameKind, pack
from taskobs.protocol.sanitize import UNEXPECTED, sanitize
from taskobs.protocol.span_encoder import (
    ATTRIBUTES,
    END_NS,
    EVENTS,
    FIELDS,
    KEY_BYTES,
    MAX_SPAN,
    MAX_START,
    NAME,
    STATUS,
    STATUS_DESCRIPTION,
    SURE,
    is_fit,
    key_of,
    pack_end,
    pack_start,
    split,
)
from taskobs.relay_client.client import RelayClient

Routed = Callable[[ReadableSpan, bytes], bytes]
"""Adds a route to the payload of a span."""
_FLAGS: Final = 3  # where a span's context, a tuple, has its flags
_SAMPLED: Final = 1


class RelayProcessor(SpanProcessor):
    """Sends each sampled span to the relay, or to ``direct`` once there is no relay any more.

    Then ``direct`` also gets the spans that the relay may not have received. Only ``force_flush``
    and ``shutdown`` block.
    """

    def __init__(
        self, client: RelayClient, direct: SpanProcessor, *, guard: Guard | None = None
    ) -> None:
        self._client = client
        self._direct = direct
        self._guard = guard or Guard()
        self._routed: Routed | None = None
        self._route = b""
        """Of the spans, if they go elsewhere than the settings say."""

    def _takes(self, span: ReadableSpan) -> bool:
        """Tell whether a span is for the relay."""
        return is_sampled(span)

    def on_start(
        self,
        span: Span,
        parent_context: Context | None = None,  # noqa: ARG002  # the SDK's interface
    ) -> None:
        """Send the start of a span: if this process dies, the relay ends the span as lost."""
        client = self._client
        try:
            if not client.unavailable and self._takes(span):
                payload = pack_start(span, quick_fields)
                if self._routed is not None:
                    payload = self._routed(span, payload)
                client.started(payload[:KEY_BYTES], payload)
        except UNEXPECTED:
            with self._guard:
                raise
        except BaseException:
            # A soft time limit's signal: the tracer raises it, so nobody gets this span to end it.
            client.forget(key_of(span.get_span_context()))
            raise

    def on_end(self, span: ReadableSpan) -> None:
        """Send a span that has ended."""
        client = self._client
        try:
            if not self._takes(span):
                return
            if client.unavailable:
                self._direct.on_end(span)
            else:
                payload = pack_end(span, quick_fields)
                if self._routed is not None:
                    payload = self._routed(span, payload)
                client.ended(payload[:KEY_BYTES], payload)
            if client.unavailable:
                self._hand_over()
        except UNEXPECTED:
            with self._guard:
                raise
        except BaseException:
            # A soft time limit's signal: the span may not have been sent. The relay recognises a
            # second END of one span; a missing one would leave the span open.
            if not client.unavailable:
                payload = pack_end(span, quick_fields)
                if self._routed is not None:
                    payload = self._routed(span, payload)
                client.ended(payload[:KEY_BYTES], payload)
            raise

    # Fast spans; see ``SpanSink``.

    def fast_span_started(self, span: FastSpan) -> None:
        """Send the start of a span, as ``on_start`` does."""
        client, key = self._client, span.fast_key
        try:
            if client.unavailable:
                return
            try:
                start = _pack_start(span.fast_row)
                payload = key + start[0]
            except UNEXPECTED:  # a value that msgpack doesn't know, or half of a surrogate pair
                payload = self._again(span, pack_start(span))
            else:
                if len(payload) <= SURE or is_fit(payload, MAX_START):
                    span.fast_start = start
                else:
                    payload = self._again(span, pack_start(span))
            client.started(key, payload)
        except UNEXPECTED:
            with self._guard:
                raise
        except BaseException:
            client.forget(key)
            raise

    def fast_span_ended(self, span: FastSpan, *, again: bool = False) -> None:
        """Send a span that has ended, as ``on_end`` does."""
        client = self._client
        try:
            if client.unavailable:
                if not again:
                    self._direct.on_end(span.as_sdk_span())
            else:
                key = span.fast_key
                try:
                    payload = key + _pack_end(span.fast_row, span.fast_start)
                except UNEXPECTED:  # as above
                    payload = self._again(span, pack_end(span))
                if len(payload) > SURE and not is_fit(payload, MAX_SPAN):
                    payload = self._again(span, pack_end(span))
                client.ended(key, payload)
            if client.unavailable:
                self._hand_over()
        except UNEXPECTED:
            with self._guard:
                raise

    def _again(self, span: FastSpan, payload: bytes) -> bytes:
        """Return the payload of a fast span that was packed by its fields and not by its row."""
        return payload if self._routed is None else self._routed(span, payload)

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Wait until the relay has exported what has ended; blocks for at most that time."""
        done = self._client.flush(timeout_millis / 1000, self._route)
        if not self._client.unavailable:
            return done
        self._hand_over()
        return self._direct.force_flush(timeout_millis)

    def shutdown(self) -> None:
        """Stop ``direct``, which may block; the client is not closed."""
        self._hand_over()
        self._direct.shutdown()

    def _hand_over(self) -> None:
        """Give ``direct``, once each, the spans that the relay may not have received."""
        ended = dict(map(split, self._client.undelivered(FrameKind.END)))
        if not ended:
            return
        from taskobs.protocol.span_decoder import SpanDecoder

        resource_blob = self._resource_blob()
        rebuilder = SpanDecoder()
        for packed in ended.values():
            with self._guard:
                self._direct.on_end(self._rebuilt(rebuilder.span(packed, resource_blob), packed))

    def _rebuilt(self, span: ReadableSpan, packed: bytes) -> ReadableSpan:  # noqa: ARG002  # see above
        """Return a span that was unpacked, as ``direct`` takes it."""
        return span

    def _resource_blob(self) -> bytes:
        """Return the packed resource of the spans."""
        hello = self._client.hello()
        return pack([sanitize(hello.get("resource")), sanitize(hello.get("schema_url"))])


def _pack_start(row: list[Any]) -> PackedStart:
    """Pack the row of a fast span that has started; raises as ``pack``."""
    attributes: Attributes | Parts = row[ATTRIBUTES]
    own = attributes if isinstance(attributes, dict) else attributes[1]
    return pack(row), row[NAME], attributes, len(own)


def _pack_end(row: list[Any], start: PackedStart | None) -> bytes:
    """Pack the row of a fast span that has ended; raises as ``pack``.

    What was packed at its start is not packed again: see ``unpack_row``.
    """
    if start is None or len(row) != FIELDS:  # with a mark, which is looked for in the outer list
        return pack(row)
    packed, name, attributes, count = start
    if name is not row[NAME] or attributes is not row[ATTRIBUTES]:
        return pack(row)
    own = attributes if isinstance(attributes, dict) else attributes[1]
    added = dict(islice(own.items(), count, None))  # the newest come last in a dict
    return pack((packed, row[END_NS], added, row[EVENTS], row[STATUS], row[STATUS_DESCRIPTION]))


def is_sampled(span: ReadableSpan) -> bool:
    """Tell whether a span is exported."""
    context = span.get_span_context()
    return context is not None and bool(context[_FLAGS] & _SAMPLED)
