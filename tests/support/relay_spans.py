"""Spans for tests of the relay: as the frames that its clients send, and as they arrive."""

from __future__ import annotations

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.trace import Span, SpanKind

from taskobs.protocol import span_encoder
from taskobs.protocol.frames import FrameKind
from taskobs.testing.receiver import Receiver
from taskobs.testing.wire import ReceivedSpan
from tests.support.relay_peer import PATIENCE
from tests.support.relay_process import RESOURCE

TRACER = TracerProvider(resource=Resource({**RESOURCE}), shutdown_on_exit=False).get_tracer(
    "shop", "1"
)


def span(name: str = "inner", kind: SpanKind = SpanKind.INTERNAL) -> ReadableSpan:
    """One that was started; `ended` ends it."""
    started = TRACER.start_span(name, kind=kind, attributes={"given": "at the start"})
    assert isinstance(started, ReadableSpan)
    return started


def start(one: ReadableSpan) -> tuple[FrameKind, bytes]:
    return FrameKind.START, span_encoder.pack_start(one)


def end(name: str = "inner") -> tuple[FrameKind, bytes]:
    """The END of a new span."""
    one = TRACER.start_span(name)
    one.end()
    assert isinstance(one, ReadableSpan)
    return FrameKind.END, span_encoder.pack_end(one)


def ids(one: ReadableSpan) -> tuple[str, str]:
    context = one.get_span_context()
    assert context is not None
    return f"{context.trace_id:032x}", f"{context.span_id:016x}"


def found(receiver: Receiver, one: ReadableSpan, timeout: float = PATIENCE) -> ReceivedSpan:
    """Wait for a span at the receiver; it must be there once."""
    assert receiver.wait_for(lambda r: ids(one)[1] in [s.span_id for s in r.spans], timeout)
    (only,) = [s for s in receiver.spans if (s.trace_id, s.span_id) == ids(one)]
    return only


def ended(one: ReadableSpan) -> tuple[FrameKind, bytes]:
    assert isinstance(one, Span)
    one.end()
    return FrameKind.END, span_encoder.pack_end(one)
