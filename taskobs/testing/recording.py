"""What one test has recorded, and what of it has not ended yet."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timezone
from typing import Final

from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.trace import ReadableSpan

from taskobs import semconv
from taskobs.model import Publish, Run
from taskobs.protocol.log_entries import unpack_entry
from taskobs.testing import wire
from taskobs.testing.reading import is_ignored, trace_of
from taskobs.testing.wire import ReceivedEvent, ReceivedLog, ReceivedSpan

_SECOND: Final = 1.0


class Recording:
    """Spans, events and log records of one test, from any thread, and what has not ended.

    A message that the test has published is pending until its run has begun, or its run's span was
    received. What belongs to a message that was published before is left out: it is of an earlier
    test.
    """

    def __init__(self, earlier_traces: Iterable[str] = ()) -> None:
        self.changed = threading.Condition()
        self._ended: list[ReadableSpan] = []
        self._spans: list[ReceivedSpan] = []
        self._events: list[ReceivedEvent] = []
        self._logs: list[ReceivedLog] = []
        self._published: set[str] = set()
        self._pending: dict[str, str] = {}
        """The tasks of messages that wait for their run, by the task's id."""
        self._open: list[tuple[Run, int]] = []
        """Runs, each with the id of its thread."""
        self._earlier_runs: list[str] = []
        self._earlier_traces = set(earlier_traces)
        self._unsampled_runs: list[str] = []
        self.ended_in_worker = 0
        """How many runs have ended that a worker has begun."""

    # What is recorded.

    def take_span(self, span: ReadableSpan) -> None:
        """Take a span of this process that has ended."""
        with self.changed:
            self._ended.append(span)
            self.changed.notify_all()

    def take_envelope(self, body: bytes) -> None:
        """Take an envelope of Sentry's."""
        events = [one for one in wire.envelope(body) if isinstance(one, ReceivedEvent)]
        with self.changed:
            self._events += events
            self.changed.notify_all()

    def take_log(self, payload: bytes) -> None:
        """Take a packed log record of this process."""
        entry = unpack_entry(payload)
        log = ReceivedLog(
            body=entry.body,
            severity=entry.severity_number,
            severity_text=entry.severity_text,
            time_ns=entry.timestamp_ns,
            observed_ns=entry.observed_ns,
            trace_id=entry.trace_id,
            span_id=entry.span_id,
            flags=entry.trace_flags,
            attributes=dict(entry.attributes),
            dropped_attributes=entry.dropped_attributes,
            resource={},
            scope=entry.scope,
        )
        with self.changed:
            self._logs.append(log)
            self.changed.notify_all()

    def take_received(
        self,
        spans: Sequence[ReceivedSpan] = (),
        events: Sequence[ReceivedEvent] = (),
        logs: Sequence[ReceivedLog] = (),
    ) -> None:
        """Take what a worker of another process has sent."""
        with self.changed:
            self._spans += spans
            self._events += events
            self._logs += logs
            for span in spans:
                self._pending.pop(str(span.attributes.get(semconv.CELERY_TASK_ID)), None)
            self.changed.notify_all()

    # What has not ended.

    def sending(self, publish: Publish) -> None:
        """Note that a message is about to be sent: its run may begin before that returns."""
        with self.changed:
            self._published.add(publish.task_id)
            if not is_in_future(publish.eta):
                self._pending[publish.task_id] = publish.task

    def refused(self, publish: Publish) -> None:
        """Note that the broker has not taken a message."""
        with self.changed:
            self._pending.pop(publish.task_id, None)
            self.changed.notify_all()

    def began(self, run: Run) -> None:
        """Note that a run has begun in this process."""
        with self.changed:
            self._open.append((run, threading.get_ident()))
            self._pending.pop(run.task_id, None)
            if not run.eager and run.task_id not in self._published:
                self._earlier_runs.append(_named(run))
                if run.span is not None:
                    self._earlier_traces.add(run.span.trace_id)

    def ended(self, run: Run) -> None:
        """Note that all was recorded of a run in this process."""
        with self.changed:
            self._open = [one for one in self._open if one[0] is not run]
            self.ended_in_worker += run.ran and not run.eager
            if run.span is not None and not run.span.sampled:
                self._unsampled_runs.append(_named(run))
            self.changed.notify_all()

    @property
    def running(self) -> tuple[str, ...]:
        """The tasks whose run has begun in another thread, and not ended.

        Those of this thread can't end while it waits for them: a task asks, that runs eagerly.
        """
        this = threading.get_ident()
        with self.changed:
            return tuple(run.task for run, thread in self._open if thread != this)

    @property
    def pending(self) -> tuple[str, ...]:
        """The tasks of the messages that no run has begun for."""
        with self.changed:
            return tuple(self._pending.values())

    @property
    def earlier_runs(self) -> tuple[str, ...]:
        """The runs that are left out, as their messages were published before."""
        with self.changed:
            return tuple(self._earlier_runs)

    @property
    def unsampled_runs(self) -> tuple[str, ...]:
        """The runs that have no span, as a rule or ``untraced()`` says so."""
        with self.changed:
            return tuple(self._unsampled_runs)

    @property
    def open_traces(self) -> set[str]:
        """The traces of runs that have not ended, and of those of earlier tests."""
        with self.changed:
            spans = [run.span for run, _ in self._open]
            return self._earlier_traces | {one.trace_id for one in spans if one is not None}

    def wait(self, done: Callable[[], bool], timeout: float, tick: float = _SECOND) -> bool:
        """Wait until ``done()``, at most ``timeout`` seconds; tell whether it is.

        It is asked each time that something is recorded, and every ``tick`` seconds.
        """
        deadline = time.monotonic() + timeout
        with self.changed:
            while not done():
                left = deadline - time.monotonic()
                if left <= 0:
                    return False
                # Not for longer than a tick: the thread of a worker may end, which notifies nobody.
                self.changed.wait(min(left, tick))
        return True

    # What the test reads.

    @property
    def spans(self) -> tuple[ReceivedSpan, ...]:
        """The spans, in the order in which they started."""
        with self.changed:
            ended, self._ended = self._ended, []
            if ended:
                self._spans += wire.spans(encode_spans(ended).SerializeToString())
            found = [one for one in self._spans if self._is_of_test(one.trace_id)]
        kept = (one for one in found if not is_ignored(one))
        return tuple(sorted(kept, key=lambda one: one.start_ns))

    @property
    def events(self) -> tuple[ReceivedEvent, ...]:
        """Sentry's events."""
        with self.changed:
            return tuple(one for one in self._events if self._is_of_test(trace_of(one)))

    @property
    def logs(self) -> tuple[ReceivedLog, ...]:
        """The log records."""
        with self.changed:
            return tuple(one for one in self._logs if self._is_of_test(one.trace_id))

    def clear(self) -> None:
        """Forget what was recorded so far; what is pending stays so."""
        with self.changed:
            for kept in (self._ended, self._spans, self._events, self._logs):
                kept.clear()

    def _is_of_test(self, trace_id: str) -> bool:
        return trace_id not in self._earlier_traces


def _named(run: Run) -> str:
    return f"{run.task}, id {run.task_id}"


def is_in_future(eta: str | None) -> bool:
    """Tell whether a task is not to run now: no test waits for it."""
    if not eta:
        return False
    try:
        due = datetime.fromisoformat(eta)
    except ValueError:
        return False
    aware = due if due.tzinfo else due.replace(tzinfo=timezone.utc)
    return (aware - datetime.now(timezone.utc)).total_seconds() > _SECOND
