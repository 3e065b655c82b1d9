"""The pipeline `direct`: each process exports its own spans, through the SDK's batch processor."""

from __future__ import annotations

import threading
from collections.abc import Callable

from opentelemetry.context import Context
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor

from taskobs.internal import forksafe
from taskobs.internal.forksafe import ForkStep


class SwitchableProcessor(SpanProcessor):
    """Passes all on to a processor that may be another one later."""

    def __init__(self, to: SpanProcessor) -> None:
        self.to = to

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        """Pass a start on."""
        self.to.on_start(span, parent_context)

    def on_end(self, span: ReadableSpan) -> None:
        """Pass an end on."""
        self.to.on_end(span)

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Have what has ended sent."""
        return self.to.force_flush(timeout_millis)

    def shutdown(self) -> None:
        """Stop."""
        self.to.shutdown()


class PerProcessProcessor(SpanProcessor):
    """Hands ended spans to a processor that belongs to this process, made for its first span.

    A batch processor has a thread, a queue, and behind it an exporter with a socket, none of
    which survive a fork in one piece: so the child gets its own.
    """

    def __init__(self, make: Callable[[], SpanProcessor]) -> None:
        self._make = make
        self._inherited: SpanProcessor | None = None
        self._forget()
        forksafe.add(self, ForkStep.EXPORT)

    def _forget(self) -> None:
        self._lock = threading.Lock()
        self._processor: SpanProcessor | None = None
        self._closed = False

    def after_fork(self) -> None:
        """In a forked child: leave the parent's processor alone."""
        self._inherited = self._inherited or self._processor
        self._forget()

    @property
    def idle(self) -> bool:
        """Whether nothing was handed to this process's processor, which isn't there yet."""
        return self._processor is None

    def retire(self) -> None:
        """Send what has ended and end the thread, without waiting; a later span starts anew."""
        with self._lock:
            processor, self._processor = self._processor, None
        if processor is not None:
            threading.Thread(
                target=processor.shutdown, name="taskobs-end-direct", daemon=True
            ).start()

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        """Nothing: only what has ended is exported."""

    def on_end(self, span: ReadableSpan) -> None:
        """Pass an ended span on; a closed pipeline drops it."""
        processor = self._processor or self._start()
        if processor is not None:
            processor.on_end(span)

    def _start(self) -> SpanProcessor | None:
        with self._lock:
            if self._processor is None and not self._closed:
                self._processor = self._make()
                self._end_inherited()
            return self._processor

    def _end_inherited(self) -> None:
        """End the parent's processor, which the SDK has restarted, empty, in this child.

        On a thread of its own: a lock of the parent's exporter may have been held at the fork.
        """
        inherited, self._inherited = self._inherited, None
        if inherited is not None:
            threading.Thread(
                target=inherited.shutdown, name="taskobs-end-inherited", daemon=True
            ).start()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Export what has ended; blocks for as long as the exporter does."""
        return self._processor is None or self._processor.force_flush(timeout_millis)

    def shutdown(self) -> None:
        """Export what has ended and stop; blocks for as long as the exporter does."""
        forksafe.remove(self)
        with self._lock:
            self._closed = True
            processor, self._processor = self._processor, None
        if processor is not None:
            processor.shutdown()
