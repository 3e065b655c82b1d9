"""The span of one run, from its start to what it says of the run's end."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextvars import Token
from typing import Final

from opentelemetry import context as otel_context
from opentelemetry.context import Context
from opentelemetry.metrics import Histogram
from opentelemetry.trace import NonRecordingSpan, Span, StatusCode

from taskobs import semconv
from taskobs.model import Outcome, Run
from taskobs.observers.attributes import (
    MESSAGE_CHARS,
    Attributes,
    SetUnchecked,
    add,
    encodable,
    message_of,
    never,
    record_exception,
    type_of,
)
from taskobs.observers.context import values as context_values

_SUCCEEDED: Final = Outcome.SUCCEEDED  # read once: an enumeration's members are slow to read
_SUCCESS: Final[Attributes] = {semconv.CELERY_OUTCOME: _SUCCEEDED.value}
_STATES: Final = {
    Outcome.SUCCEEDED: "SUCCESS",
    Outcome.FAILED: "FAILURE",
    Outcome.RETRIED: "RETRY",
    Outcome.REJECTED: "REJECTED",
    Outcome.IGNORED: "IGNORED",
}
"""Celery's own words, a stock attribute; for other outcomes the stock instrumentation has none."""
_STEP: Final = 0.5
"""Seconds by which the wall clock has to differ from the monotonic one to count as set."""
_ERRORS: Final = frozenset({Outcome.FAILED, Outcome.LOST, Outcome.UNKNOWN})


class RunEnds:
    """Describes how runs ended, on their spans and in the stock histogram."""

    def __init__(
        self,
        histogram: Histogram,
        *,
        stock_attributes: bool = True,
        event_url: str | None = None,
        set_unchecked: SetUnchecked = never,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._histogram = histogram
        self._event_url = event_url
        self._stock = stock_attributes
        self._success = dict(_SUCCESS)
        if stock_attributes:
            self._success[semconv.CELERY_STATE] = _STATES[Outcome.SUCCEEDED]
        self._set_unchecked = set_unchecked
        self._clock = clock

    def end(self, run: Run, span: Span) -> None:
        """Describe the end of a run, and end its span."""
        outcome, started = run.outcome or _SUCCEEDED, run.started
        here = run.ticks and started is None  # else it ran in another process
        records = type(span) is not NonRecordingSpan
        try:
            if not records:
                pass
            elif (
                outcome is _SUCCEEDED
                and run.event_id is None
                and run.exception is None
                and run.context_now is None
            ):
                # As nearly always: a fast span takes this in one call, and no other span has it.
                try_set = getattr(span, "try_set_attributes", None)
                if try_set is None or not try_set(self._success):
                    self._add(span, self._success)
            elif span.is_recording():
                self._describe(run, outcome, span)
        finally:
            seconds = time.monotonic() - run.ticks if here else 0.0
            if records or not here:
                by_wall = self._clock() - (started or run.began)
                if here and abs(by_wall - seconds) > _STEP:
                    span.end(int((run.began + seconds) * 1e9))
                else:  # by the span's own clock, which is as exact as its start
                    span.end()
                if not here:
                    seconds = max(0.0, by_wall)
        if run.ran:
            labels = {"task": run.task, "worker": run.hostname or ""}
            self._histogram.record(seconds, labels)

    def _add(self, span: Span, attributes: Attributes) -> None:
        if span.is_recording():
            add(span, attributes, self._set_unchecked)

    def _describe(self, run: Run, outcome: Outcome, span: Span) -> None:
        attributes = self._attributes(run, outcome)
        failed = outcome in _ERRORS and not run.expected
        if failed:
            span.set_status(StatusCode.ERROR, message_of(run.exception))
        if run.exception is not None:
            record_exception(span, run.exception, run.traceback)
            if failed:
                attributes[semconv.ERROR_TYPE] = type_of(run.exception)
        self._add(span, attributes)

    def _attributes(self, run: Run, outcome: Outcome) -> Attributes:
        attributes: Attributes = {semconv.CELERY_OUTCOME: outcome.value}
        if run.context_now is not None:  # set by the run itself, since its span has started
            attributes.update(context_values.values_at(run.exception, run))
        if self._stock and outcome in _STATES:
            attributes[semconv.CELERY_STATE] = _STATES[outcome]
        if run.expected:
            attributes[semconv.CELERY_EXPECTED] = True
        if run.reason is not None:
            reason = encodable(run.reason[:MESSAGE_CHARS])
            attributes[semconv.CELERY_REASON] = reason
            if self._stock and outcome is Outcome.RETRIED:
                attributes[semconv.CELERY_RETRY_REASON] = reason
        if run.signal is not None:
            attributes[semconv.CELERY_SIGNAL] = run.signal
        if run.exit_code is not None:
            attributes[semconv.PROCESS_EXIT_CODE] = run.exit_code
        if run.requeued:
            attributes[semconv.CELERY_REQUEUED] = True
        if run.event_id is not None:
            attributes.update(self._of_event(run.event_id))
        return attributes

    def _of_event(self, event_id: str) -> Attributes:
        if self._event_url is None:
            return {semconv.SENTRY_EVENT_ID: event_id}
        link = self._event_url.replace("{event_id}", event_id)
        return {semconv.SENTRY_EVENT_ID: event_id, semconv.SENTRY_EVENT_URL: link}


class RunSpan:
    """The span of a run, current until the run ends."""

    __slots__ = ("_context", "_ends", "_run", "_span", "_token")

    _token: Token[Context]

    def __init__(self, ends: RunEnds, run: Run, span: Span, context: Context) -> None:
        self._ends = ends
        self._run = run
        self._span = span
        self._context = context

    def __enter__(self) -> None:
        self._token = otel_context.attach(self._context)

    def __exit__(self, *_: object) -> None:
        try:
            if not self._run.abandoned:
                self._ends.end(self._run, self._span)
        finally:
            otel_context.detach(self._token)
