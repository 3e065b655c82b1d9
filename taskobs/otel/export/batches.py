"""Batches of a process's own spans, exported on a thread: the SDK's batch processor for less.

Ended spans wait as they are, and are encoded in the thread, from the rows of fast spans. A span
that ends takes no lock, and wakes the thread only when there is a batch.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any, Final, NamedTuple

from opentelemetry.context import Context
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from taskobs.internal import forksafe
from taskobs.internal.forksafe import ForkStep
from taskobs.internal.timeouts import run_with_timeout
from taskobs.otel._sdk_compat import no_spans_of_export
from taskobs.otel.fast_spans import FastSpan

_log: Final = logging.getLogger("taskobs")
_QUEUE: Final = ("OTEL_BSP_MAX_QUEUE_SIZE", 2048)
_BATCH: Final = ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", 512)
_DELAY: Final = ("OTEL_BSP_SCHEDULE_DELAY", 5000)
_SHUTDOWN: Final = 30.0
"""Seconds that ``shutdown`` waits for an export at most, as the SDK's does."""
_JOIN: Final = 5.0
"""Seconds that it waits for the thread, which has nothing more to do then."""


class Limits(NamedTuple):
    """How many spans wait, how many are sent at once, and when."""

    queue: int
    """Spans that wait; of more, the oldest are dropped."""
    batch: int
    delay: float
    """Seconds from a span to its export, unless there is a batch before."""

    @classmethod
    def of_environment(cls) -> Limits:
        """Read them as the SDK's batch processor does, with its defaults for what it refuses.

        It has no use for ``OTEL_BSP_EXPORT_TIMEOUT`` (seen in 1.45).
        """
        queue, batch, delay = _read(*_QUEUE), _read(*_BATCH), _read(*_DELAY)
        if batch > queue:
            _log.warning("taskobs: %s is larger than %s, so both are ignored", _BATCH[0], _QUEUE[0])
            queue, batch = _QUEUE[1], _BATCH[1]
        return cls(queue, batch, min(delay / 1000, threading.TIMEOUT_MAX))


def _read(variable: str, default: int) -> int:
    given = os.environ.get(variable, "").strip()
    try:
        value = int(given) if given else default
    except ValueError:
        value = 0
    if value <= 0:
        _log.warning(
            "taskobs: %s=%s is not a positive integer: %d is used", variable, given, default
        )
        return default
    return value


class SpanBatches(SpanProcessor):
    """Exports ended spans in batches, from a thread that the first one starts.

    Spans may end in any thread, greenlet, finalizer or signal handler. What was inherited over a
    fork sends nothing any more: its spans are the parent's.
    """

    def __init__(
        self,
        exporter: SpanExporter,
        lost: Callable[[int], object],
        limits: Limits | None = None,
    ) -> None:
        """``exporter`` takes fast spans, too; ``lost`` is called with a number of dropped ones."""
        self._exporter = exporter
        self._lost = lost
        self._limits = limits or Limits.of_environment()
        self._closed = False
        self._begin()
        forksafe.add(self, ForkStep.EXPORT)

    def _begin(self) -> None:
        # Its methods are atomic: no lock is needed that a soft time limit's signal could leave
        # locked, or that a span which ends in a finalizer would wait for.
        self._waiting: deque[ReadableSpan] = deque()
        self._under_way: Iterable[ReadableSpan] = ()
        self._dropped = self._refused = 0
        self._exporting = threading.Lock()
        self._wake = threading.Event()
        # Whoever takes the token starts the thread.
        self._start_tokens: list[object] = [None]
        self._thread: threading.Thread | None = None

    def after_fork(self) -> None:
        """In a forked child: leave what waits to the parent."""
        self._closed = True
        self._begin()

    # Spans that end.

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        """Do nothing: only ended spans are exported."""

    def on_end(self, span: ReadableSpan) -> None:
        """Have an ended span exported, if it is sampled."""
        context = span.get_span_context()
        if context is not None and context.trace_flags.sampled:
            self._put(span)

    def fast_span_ended(self, span: FastSpan, *, again: bool = False) -> None:
        """Do the same for a fast span; ``again`` as in ``SpanSink``."""
        if not again or not self._has(span):
            self._put(span)

    def _has(self, span: FastSpan) -> bool:
        return any(one is span for one in (*self._waiting.copy(), *self._under_way))

    def _put(self, span: ReadableSpan) -> None:
        if self._closed:
            return
        waiting, limits = self._waiting, self._limits
        if len(waiting) >= limits.queue:
            self._drop()
        waiting.append(span)
        if self._start_tokens:
            self._start()
        if len(waiting) >= limits.batch and not self._wake.is_set():
            self._wake.set()

    def _drop(self) -> None:
        """Drop the oldest span, as the SDK does."""
        try:
            self._waiting.popleft()
        except IndexError:  # another thread has taken all
            return
        self._dropped += 1

    # The thread.

    def _start(self) -> None:
        try:
            token = self._start_tokens.pop()
        except IndexError:  # another thread was faster
            return
        thread = threading.Thread(target=self._run, name="taskobs-spans", daemon=True)
        try:
            thread.start()
            self._thread = thread
        except RuntimeError:  # no thread can be had: a later span tries again, or a flush sends it
            self._start_tokens.append(token)
        except BaseException:  # a time limit's signal: perhaps two threads, rather than none
            self._start_tokens.append(token)
            raise

    def _run(self) -> None:
        tokens, wake, waiting, limits = self._start_tokens, self._wake, self._waiting, self._limits
        try:
            while not self._closed:
                has_batch = wake.wait(limits.delay)
                wake.clear()  # before the export: a span that ends meanwhile may set it again
                if not has_batch and waiting and not self._closed:
                    with self._exporting:
                        self._export_next(limits.batch)
                while len(waiting) >= limits.batch and not self._closed:
                    with self._exporting:
                        self._export_next(limits.batch)
        finally:
            tokens.append(None)

    def _export_next(self, number: int) -> None:
        """Export the oldest spans, at most this many; call it with the lock."""
        dropped, self._dropped = self._dropped, 0
        if dropped:
            self._refused += dropped
            self._lost(dropped)
        batch: list[ReadableSpan] = []
        self._under_way = batch
        with suppress(IndexError):  # other threads drop spans
            batch.extend(self._waiting.popleft() for _ in range(number))
        if batch:
            self._refused += 0 if self._is_accepted(batch) else len(batch)
        self._under_way = ()

    def _is_accepted(self, batch: list[ReadableSpan]) -> bool:
        try:
            with no_spans_of_export():
                return self._exporter.export(batch) is SpanExportResult.SUCCESS
        except Exception:  # noqa: BLE001  # whatever an exporter may raise; the SDK logs it, too
            _log.exception("taskobs: spans were lost, as their exporter failed")
            return False

    # Flush and end.

    def force_flush(self, timeout_millis: int | None = None) -> bool:
        """Export the spans that have ended; tell whether all were accepted within the time."""
        if not self._waiting and not self._exporting.locked():
            return True
        timeout = _SHUTDOWN if timeout_millis is None else timeout_millis / 1000
        return _within(timeout, lambda: self._export_all(timeout))

    def _export_all(self, timeout: float) -> bool:
        deadline = time.monotonic() + timeout
        refused = self._refused
        if not self._exporting.acquire(timeout=max(0.0, min(timeout, threading.TIMEOUT_MAX))):
            return False
        try:
            left = len(self._waiting)
            while left > 0 and time.monotonic() < deadline:
                self._export_next(min(left, self._limits.batch))
                left -= self._limits.batch
        finally:
            self._exporting.release()
        return left <= 0 and self._refused == refused

    def shutdown(self) -> None:
        """Export the spans that have ended, and stop; blocks as long as the exporter does."""
        if self._closed:
            return
        forksafe.remove(self)
        self._closed = True
        self._wake.set()
        self._export_all(_SHUTDOWN)
        if self._thread is not None and not self._exporting.locked():
            self._thread.join(_JOIN)
        self._exporter.shutdown()


def _within(timeout: float, job: Callable[[], bool]) -> bool:
    """Tell whether a job returns True within a time; if not, it goes on in a thread of its own."""
    done: list[Any] = []
    return run_with_timeout(timeout, lambda: done.append(job())) and done == [True]
