"""Spans: one for each publish, one for each run, in one trace."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from typing import Final

from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.metrics import Histogram
from opentelemetry.trace import (
    INVALID_SPAN_CONTEXT,
    Link,
    Span,
    SpanContext,
    SpanKind,
    StatusCode,
    TraceFlags,
    Tracer,
)

from taskobs import semconv
from taskobs.internal import span_ids
from taskobs.model import Outcome, Publish, Run, SpanAddress
from taskobs.observers import propagation
from taskobs.observers.attributes import (
    MESSAGE_CHARS,
    Attributes,
    SetUnchecked,
    add,
    encodable,
    message_of,
    never,
    of_message,
    of_publish,
    of_run,
    of_sampling,
    record_error,
    record_exception,
    type_of,
)
from taskobs.observers.base import NOTHING, Observer
from taskobs.observers.deferred_attributes import DeferredAttributes

# Celery polls for the end of a chord by retrying this task: it is no work of anybody's.
_POLLS: Final = frozenset({"celery.chord_unlock"})
_SUCCESS: Final[Attributes] = {semconv.CELERY_OUTCOME: Outcome.SUCCEEDED.value}
_ERRORS: Final = frozenset({Outcome.FAILED, Outcome.LOST, Outcome.UNKNOWN})


class SpanObserver(Observer):
    """Makes ``publish {task}`` and ``run {task}`` spans, and passes the trace on in headers.

    ``use_span_links`` makes a run the root of a trace of its own, linked to its publish, as
    the stock instrumentation's option of that name does; baggage still arrives. ``late`` is what
    stands before the tracer's processors, if it can.
    """

    def __init__(  # noqa: PLR0913  # one keyword a choice
        self,
        tracer: Tracer,
        histogram: Histogram,
        *,
        stock_attributes: bool = True,
        use_span_links: bool = False,
        deferred: DeferredAttributes | None = None,
        set_unchecked: SetUnchecked = never,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._tracer = tracer
        self._deferred = deferred
        self._set_unchecked = set_unchecked
        self._histogram = histogram
        self._stock = stock_attributes
        self._use_links = use_span_links
        self._clock = clock

    def use(self, tracer: Tracer, deferred: DeferredAttributes | None) -> None:
        """Make spans with another tracer from now on."""
        self._tracer, self._deferred = tracer, deferred

    # Publishes.

    def publish(self, publish: Publish) -> AbstractContextManager[object]:
        """Make the span of a publish current until the message is sent, or refused."""
        if publish.task in _POLLS:
            return NOTHING
        # The attempts of a task are siblings: all hang on what the first one hangs on.
        parent = publish.retries.parent_span if publish.retries else None
        if publish.schedule is not None:
            parent = otel_context.Context()  # a tick is nobody's child, whatever is current
        context = parent if isinstance(parent, otel_context.Context) else None
        name = semconv.PUBLISH_SPAN + encodable(publish.name)
        if self._deferred is not None:
            describe = partial(of_publish, publish)
            above = trace.get_current_span(context).get_span_context()
            span = self._deferred.start_span(name, context, above, SpanKind.PRODUCER, describe)
        else:
            span = self._tracer.start_span(
                name, context=context, kind=SpanKind.PRODUCER, attributes=of_publish(publish)
            )
        current = trace.set_span_in_context(span, context if publish.schedule else None)
        return _Current(current, _end_publish, publish, span)

    def canvas(self, kind: str) -> AbstractContextManager[object]:
        """Give the parts of a group or chord one trace when there is no span to hang them on."""
        if trace.get_current_span().get_span_context().is_valid:
            return NOTHING
        name = semconv.PUBLISH_SPAN + kind
        span = self._tracer.start_span(name, attributes={semconv.CELERY_TASK_NAME: kind})
        return _Current(trace.set_span_in_context(span), span.end)

    def sending(self, publish: Publish) -> None:
        """Describe the span, now that the message is routed, and write the headers."""
        span = trace.get_current_span()
        if publish.task not in _POLLS and span.is_recording():
            if publish.name != publish.task:
                span.update_name(semconv.PUBLISH_SPAN + encodable(publish.name))
            found = of_message(publish, publish.stock() if self._stock else {})
            add(span, found, self._set_unchecked)
        self._write_headers(publish, span)

    def _write_headers(self, publish: Publish, span: Span) -> None:
        headers = publish.headers
        headers[semconv.HEADER_PUBLISHED_AT] = f"{self._clock():.6f}"
        headers.pop(semconv.HEADER_RUN_SPAN, None)  # of the run that hands its headers on
        again = publish.retries
        if again is not None and isinstance(again.parent_span, otel_context.Context):
            anchor = trace.get_current_span(again.parent_span)
            propagation.inject(headers, trace.set_span_in_context(anchor))
        else:
            propagation.inject(headers, otel_context.get_current())
        links = self._links_to_send(publish, span)
        if links:
            headers[semconv.HEADER_LINKS] = propagation.write_links(links)
        else:
            headers.pop(semconv.HEADER_LINKS, None)  # an earlier attempt's

    def _links_to_send(self, publish: Publish, span: Span) -> list[tuple[str, str]]:
        links: list[tuple[str, str]] = []
        again = publish.retries
        if again is not None and again.span is not None:
            links.append((semconv.LINK_RETRY_OF, again.span.traceparent))
            links.append((semconv.LINK_PUBLISH, propagation.address_of(span.get_span_context())))
        if publish.header_runs is not None:
            links += [
                (semconv.LINK_CHORD_HEADER, address) for address in publish.header_runs.load()
            ]
        return links

    # Runs.

    def run(self, run: Run) -> AbstractContextManager[object]:
        """Make the span of a run current until it ends."""
        if run.eager:
            carried = otel_context.get_current()
            parent = trace.get_current_span(carried).get_span_context()
        else:
            carried, parent = propagation.extract(run.headers)
        if run.task in _POLLS:
            run.parent_span = carried
            return _Current(carried, _nothing)
        span = self._start_run(run, carried, parent)
        run.span = _address_of(span.get_span_context())
        context = trace.set_span_in_context(span, carried)
        run.parent_span = carried if parent.is_valid else context
        return _Current(context, self._end_run, run, span)

    def _start_run(self, run: Run, carried: otel_context.Context, parent: SpanContext) -> Span:
        links = propagation.read_links(run.headers.get(semconv.HEADER_LINKS))
        context = carried
        if self._use_links and not run.eager:
            if parent.is_valid:
                links.append(Link(parent, {semconv.LINK_KIND: semconv.LINK_PUBLISH}))
            context, parent = otel_context.Context(), INVALID_SPAN_CONTEXT
        chosen = None if run.eager else span_ids.read(run.headers.get(semconv.HEADER_RUN_SPAN))
        if chosen is None:
            return self._start(run, context, parent, links)
        with span_ids.given(chosen):
            return self._start(run, context, parent, links)

    def _start(
        self, run: Run, context: otel_context.Context, parent: SpanContext, links: list[Link]
    ) -> Span:
        name = semconv.RUN_SPAN + encodable(run.name)
        started = None if run.started is None else int(run.started * 1e9)
        if self._deferred is not None:
            describe = partial(self._run_attributes, run)
            return self._deferred.start_span(
                name, context, parent, SpanKind.CONSUMER, describe, links=links, start_time=started
            )
        # Most samplers do as the publish's did: what would not be recorded is not worked out.
        dropped = parent.is_valid and not parent.trace_flags.sampled
        attributes = of_sampling(run) if dropped else self._run_attributes(run)
        span = self._tracer.start_span(name, context, SpanKind.CONSUMER, attributes, links, started)
        if dropped and span.is_recording():
            add(span, self._run_attributes(run), self._set_unchecked)
        return span

    def _run_attributes(self, run: Run) -> Attributes:
        return of_run(run, run.stock() if self._stock else {})

    def _end_run(self, run: Run, span: Span) -> None:
        if run.abandoned:
            return
        try:
            if span.is_recording():
                self._tell_end(run, span)
        finally:
            span.end()
        if run.ran:
            labels = {"task": run.task, "worker": run.hostname or ""}
            self._histogram.record(self._clock() - (run.started or run.began), labels)

    def _tell_end(self, run: Run, span: Span) -> None:
        outcome = run.outcome or Outcome.SUCCEEDED
        if outcome is Outcome.SUCCEEDED and run.event_id is None and run.exception is None:
            add(span, _SUCCESS, self._set_unchecked)  # as nearly always
            return
        attributes = self._end_attributes(run, outcome)
        failed = outcome in _ERRORS and not run.expected
        if failed:
            span.set_status(StatusCode.ERROR, message_of(run.exception))
        if run.exception is not None:
            record_exception(span, run.exception, run.traceback)
            if failed:
                attributes[semconv.ERROR_TYPE] = type_of(run.exception)
        add(span, attributes, self._set_unchecked)

    def _end_attributes(self, run: Run, outcome: Outcome) -> Attributes:
        attributes: Attributes = {semconv.CELERY_OUTCOME: outcome._value_}
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
            attributes[semconv.SENTRY_EVENT_ID] = run.event_id
        return attributes


class _Current:
    """A context that is current until the exit, which calls ``end`` in it."""

    __slots__ = ("_context", "_end", "_given", "_token")

    def __init__(
        self, context: otel_context.Context, end: Callable[..., object], *given: object
    ) -> None:
        self._context = context
        self._end, self._given = end, given

    def __enter__(self) -> None:
        self._token = otel_context.attach(self._context)

    def __exit__(self, *_: object) -> None:
        try:
            self._end(*self._given)
        finally:
            otel_context.detach(self._token)


def _address_of(context: SpanContext) -> SpanAddress:
    if type(context) is SpanContext:  # it is a tuple, which is read in a third of the time
        trace_id, span_id, _, flags, _, _ = context
    else:
        trace_id, span_id, flags = context.trace_id, context.span_id, context.trace_flags
    return SpanAddress(trace_id, span_id, bool(flags & TraceFlags.SAMPLED))


def _end_publish(publish: Publish, span: Span) -> None:
    try:
        if publish.error is not None:
            record_error(span, publish.error)
    finally:
        span.end()


def _nothing() -> None: ...
