"""Send held spans to the relay, or hold them in this process where there is none."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from threading import RLock
from typing import Final

from opentelemetry.context import Context
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor

from taskobs.internal import forksafe
from taskobs.internal.forksafe import ForkStep
from taskobs.internal.guard import Guard
from taskobs.otel._sdk_compat import quick_fields
from taskobs.otel.held.sampler import HoldingSampler, mark_on, set_mark
from taskobs.otel.relay_processor import RelayProcessor, is_sampled
from taskobs.protocol.frames import pack
from taskobs.protocol.held_spans.marks import Mark, mark_of, sampled, with_mark
from taskobs.protocol.held_spans.rules import KeepRules
from taskobs.protocol.held_spans.runs import HeldRuns, HeldSpan
from taskobs.protocol.sanitize import UNEXPECTED, sanitize
from taskobs.protocol.span_decoder import SpanDecoder
from taskobs.protocol.span_encoder import pack_end, split
from taskobs.relay_client.client import RelayClient

_log: Final = logging.getLogger("taskobs")


def _marked(span: ReadableSpan, payload: bytes) -> bytes:
    mark = mark_on(span.get_span_context())
    return payload if mark is None else with_mark(payload, mark)


class HoldingRelayProcessor(RelayProcessor):
    """Sends the relay also what it is to hold."""

    def __init__(
        self, client: RelayClient, direct: SpanProcessor, sampler: HoldingSampler, guard: Guard
    ) -> None:
        super().__init__(client, direct, guard=guard)
        self._sampler = sampler
        self._routed = _marked

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        """Mark a span, and send its start."""
        self._sampler.mark_span(span)
        super().on_start(span, parent_context)

    def _takes(self, span: ReadableSpan) -> bool:
        return is_sampled(span) or mark_on(span.get_span_context()) is not None

    def _rebuilt(self, span: ReadableSpan, packed: bytes) -> ReadableSpan:
        mark, context = mark_of(packed), span.get_span_context()
        if mark is not None and context is not None:
            set_mark(context, mark)
        return span


class HoldingProcessor(SpanProcessor):
    """Holds spans in this process, where no relay does; what is kept goes to ``following``.

    What a process holds ends with it, so a lost run is kept without the spans inside it.
    """

    def __init__(self, following: SpanProcessor, sampler: HoldingSampler, rules: KeepRules) -> None:
        self._following, self._sampler, self._rules = following, sampler, rules
        self._decoder = SpanDecoder()
        self._guard = Guard()
        self._resource: Resource | None = None
        self._resource_blob = b""
        self._begin()
        forksafe.add(self, ForkStep.EXPORT)

    def _begin(self) -> None:
        # A signal's handler or a finalizer may end a span while this thread ends another one.
        self._lock = RLock()
        self._held = HeldRuns(self._rules, self._no_room)
        self._dropped = 0

    def after_fork(self) -> None:
        """In a forked child: hold nothing of the parent's."""
        self._begin()

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        """Mark a span that starts."""
        self._sampler.mark_span(span)
        self._following.on_start(span, parent_context)

    def on_end(self, span: ReadableSpan) -> None:
        """Hold a span that has ended, or forward it if it is sampled."""
        mark = mark_on(span.get_span_context())
        if mark is None:
            self._following.on_end(span)
            return
        try:
            for one in self._ended(span, mark):
                self._following.on_end(self._decoder.span(sampled(one.packed), one.resource_blob))
        except UNEXPECTED:  # and not a soft time limit's signal, which is for the task
            with self._guard:
                raise

    def _ended(self, span: ReadableSpan, mark: Mark) -> list[HeldSpan]:
        """Take a span that has ended; return what is kept by that."""
        key, packed = split(with_mark(pack_end(span, quick_fields), mark))
        with self._lock:
            return self._held.ended(HeldSpan(key, packed, self._blob_of(span.resource))).kept

    def _blob_of(self, resource: Resource) -> bytes:
        if resource is not self._resource:
            found = [sanitize(resource.attributes), sanitize(resource.schema_url)]
            self._resource, self._resource_blob = resource, pack(found)
        return self._resource_blob

    def _no_room(self, spans: Sequence[HeldSpan]) -> None:
        if not self._dropped:
            _log.warning(
                "taskobs: runs that are not sampled have more spans than this process holds until "
                "they end, so their oldest are dropped. This is logged once"
            )
        self._dropped += len(spans)

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Export what is kept."""
        return self._following.force_flush(timeout_millis)

    def shutdown(self) -> None:
        """Export what is kept, and stop."""
        forksafe.remove(self)
        self._following.shutdown()
