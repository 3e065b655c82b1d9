"""The pipeline `direct`: each process exports its own spans, in batches."""

from __future__ import annotations

import threading
from collections.abc import Callable

from opentelemetry.context import Context
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor

from taskobs.internal import forksafe
from taskobs.internal.forksafe import ForkStep
from taskobs.otel.export.batches import SpanBatches
from taskobs.otel.fast_spans import FastSpan


class SwitchableProcessor(SpanProcessor):
    """Forwards to a processor that can be replaced while the process runs."""

    def __init__(self, to: SpanProcessor) -> None:
        self.to = to

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        """Forward the start."""
        self.to.on_start(span, parent_context)

    def on_end(self, span: ReadableSpan) -> None:
        """Forward the end."""
        self.to.on_end(span)

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Export the spans that have ended."""
        return self.to.force_flush(timeout_millis)

    def shutdown(self) -> None:
        """Shut the current processor down."""
        self.to.shutdown()


class PerProcessProcessor(SpanProcessor):
    """Forwards ended spans to a processor of this process, which is made for its first span.

    A batch processor has a thread, a queue and an exporter with a socket. None of them can be used
    in a forked child, so the child makes its own. It is a ``SpanSink``, too.
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
        """Whether this process has no processor yet, as no span has ended in it."""
        return self._processor is None

    def retire(self) -> None:
        """Export what is queued and end the thread, without waiting; a later span starts anew."""
        with self._lock:
            processor, self._processor = self._processor, None
        if processor is not None:
            threading.Thread(
                target=processor.shutdown, name="taskobs-end-direct", daemon=True
            ).start()

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        """Do nothing: only ended spans are exported."""

    def on_end(self, span: ReadableSpan) -> None:
        """Forward an ended span; after ``shutdown`` it is dropped."""
        processor = self._processor or self._start()
        if processor is not None:
            processor.on_end(span)

    def fast_span_started(self, span: FastSpan) -> None:
        """Do nothing, as ``on_start``."""

    def fast_span_ended(self, span: FastSpan, *, again: bool = False) -> None:
        """Forward a fast span that has ended, as ``on_end`` does."""
        processor = self._processor or self._start()
        if type(processor) is SpanBatches:
            processor.fast_span_ended(span, again=again)
        elif processor is not None and not again:
            processor.on_end(span.as_sdk_span())

    def _start(self) -> SpanProcessor | None:
        with self._lock:
            if self._processor is None and not self._closed:
                self._processor = self._make()
                self._end_inherited()
            return self._processor

    def _end_inherited(self) -> None:
        """Shut down the parent's processor, which the SDK has restarted, empty, in this child.

        Ours has stopped by itself. On a thread of its own: a lock of the parent's exporter may
        have been held at the fork.
        """
        inherited, self._inherited = self._inherited, None
        if inherited is not None and type(inherited) is not SpanBatches:
            threading.Thread(
                target=inherited.shutdown, name="taskobs-end-inherited", daemon=True
            ).start()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Export the spans that have ended; blocks as long as the exporter does."""
        return self._processor is None or self._processor.force_flush(timeout_millis)

    def shutdown(self) -> None:
        """Export the spans that have ended, and stop; blocks as long as the exporter does."""
        forksafe.remove(self)
        with self._lock:
            self._closed = True
            processor, self._processor = self._processor, None
        if processor is not None:
            processor.shutdown()
