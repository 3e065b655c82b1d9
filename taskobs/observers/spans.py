"""Spans: one for each publish, one for each run, in one trace."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, Final, cast

from opentelemetry import baggage, trace
from opentelemetry import context as otel_context
from opentelemetry.context import Context
from opentelemetry.metrics import Histogram
from opentelemetry.trace import (
    INVALID_SPAN_CONTEXT,
    Link,
    NonRecordingSpan,
    Span,
    SpanContext,
    SpanKind,
    TraceFlags,
)

from taskobs import semconv
from taskobs.internal import span_ids
from taskobs.model import Broker, Canvas, Publish, Run, SpanAddress
from taskobs.model.attributes import whole
from taskobs.observers import outer_trace
from taskobs.observers.attributes import (
    SetUnchecked,
    add,
    encodable,
    never,
    of_broker,
    of_message,
    of_publish,
    of_run,
    of_sampling,
    record_error,
)
from taskobs.observers.base import NOTHING, Observer
from taskobs.observers.deferred_attributes import Describe
from taskobs.observers.own_traffic import suppressed_in
from taskobs.observers.propagation import (
    HeaderPropagator,
    links_to_send,
    read_links,
    with_span,
    write_links,
)
from taskobs.observers.run_span import RunEnds, RunSpan
from taskobs.observers.task_tracer import TaskTracer
from taskobs.observers.untraced import UntracedSpan, is_untraced

# Read once: an enumeration's members are slow to read.
_CONSUMER: Final = SpanKind.CONSUMER
_PRODUCER: Final = SpanKind.PRODUCER
_SAMPLED: Final = int(TraceFlags.SAMPLED)
# What a named tuple's own ``__new__`` calls, without that call in Python.
_new: Final = cast("Callable[..., Any]", tuple.__new__)  # pyright: ignore[reportUnknownMemberType]
# Celery polls for the end of a chord by retrying this task, which is no work of the app's.
_POLLS: Final = frozenset({"celery.chord_unlock"})


class SpanObserver(Observer):
    """Makes ``publish {task}`` and ``run {task}`` spans, and passes the trace on in headers.

    With a tracer's ``link`` a run is the root of a trace of its own, linked to its publish, as
    with the stock instrumentation's ``use_span_links``; baggage still arrives. ``by_task`` has
    the tracer of each task, where they differ. ``event_url`` is the address of a page about an
    event, with ``{event_id}`` in it: spans of failed runs get it.
    """

    def __init__(  # noqa: PLR0913  # one keyword a choice
        self,
        tracer: TaskTracer,
        histogram: Histogram,
        *,
        by_task: Mapping[str, TaskTracer] | None = None,
        stock_attributes: bool = True,
        propagator: HeaderPropagator | None = None,
        event_url: str | None = None,
        set_unchecked: SetUnchecked = never,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.use(tracer, by_task)
        self._ends = RunEnds(
            histogram,
            stock_attributes=stock_attributes,
            event_url=event_url,
            set_unchecked=set_unchecked,
            clock=clock,
        )
        self._stock = stock_attributes
        self._propagator = propagator or HeaderPropagator()
        self._set_unchecked = set_unchecked
        self._clock = clock

    def use(self, tracer: TaskTracer, by_task: Mapping[str, TaskTracer] | None) -> None:
        """Make spans with other tracers from now on."""
        self._tracer, self._by_task = tracer, by_task

    def _tracer_of(self, task: str) -> TaskTracer:
        return self._tracer if self._by_task is None else self._by_task[task]

    # Publishes.

    def publish(self, publish: Publish) -> AbstractContextManager[object]:
        """Make the span of a publish current until the message is sent, or refused."""
        if publish.task in _POLLS:
            return NOTHING
        made = self._tracer if self._by_task is None else self._by_task[publish.task]
        task = publish.name
        name = semconv.PUBLISH_SPAN + (task if task.isascii() else encodable(task))
        current, context = otel_context.get_current(), None  # the current one, as nearly always
        if publish.schedule is not None or publish.retries is not None:
            context = self._context_of_publish(publish)
        span_above = trace.get_current_span(current if context is None else context)
        if type(span_above) is UntracedSpan:
            return NOTHING
        above = span_above.get_span_context()
        if context is None and not above.is_valid:
            if publish.headers:
                context = self._given_context(publish.headers)
            if context is None and outer_trace.sources:
                context = outer_trace.of_request(made.tracer, name)
            if context is not None:
                above = trace.get_current_span(context).get_span_context()
        span = made.start(name, context, above, _PRODUCER, partial(of_publish, publish))
        publish.has_span = True
        # What a retry is a child of is not what its message carries.
        below = current if publish.retries or context is None else context
        within = with_span(span, below)
        publish.opened = within, span
        return _Current(within, _end_publish, publish, span, publish.broker)

    def _context_of_publish(self, publish: Publish) -> Context | None:
        """Return what a publish is a child of; None for the current span."""
        if publish.schedule is not None:
            return Context()  # each tick of beat begins a trace, whatever is current
        if publish.retries is not None and not is_untraced():
            # The attempts of a task are siblings: all are children of the first one's parent.
            parent = publish.retries.parent_span
            return parent if isinstance(parent, Context) else None
        return None

    def _given_context(self, headers: Mapping[str, object]) -> Context | None:
        """Return the current context with the span that the caller's own headers name, if any."""
        current = otel_context.get_current()
        context, parent = self._propagator.extract(headers, current)
        if not parent.is_valid:
            return None
        for name, value in baggage.get_all(current).items():  # as in a merged header, it goes first
            context = baggage.set_baggage(name, value, context)
        return context

    def canvas(self, canvas: Canvas) -> AbstractContextManager[object]:
        """Give the parts of a group or chord one trace if no span is current."""
        if trace.get_current_span().get_span_context().is_valid:
            return NOTHING
        attributes = {**(canvas.context or {}), semconv.CELERY_TASK_NAME: canvas.kind}
        name = semconv.PUBLISH_SPAN + canvas.kind
        tracer = self._tracer_of(canvas.kind).tracer
        context = self._given_context(canvas.headers) if canvas.headers else None
        if context is None:
            context = outer_trace.of_request(tracer, name)
        span = tracer.start_span(name, context, attributes=attributes)
        return _Current(trace.set_span_in_context(span, context), _end_canvas, canvas, span)

    def sending(self, publish: Publish) -> None:
        """Describe the span, now that the message is routed, and write the headers."""
        current = otel_context.get_current()
        within, opened = publish.opened or (None, None)
        # Asked only if somebody has made another context current meanwhile.
        span = cast("Span", opened) if within is current else trace.get_current_span(current)
        if publish.task not in _POLLS and span.is_recording():
            if publish.name != publish.task:
                span.update_name(semconv.PUBLISH_SPAN + encodable(publish.name))
            attributes = of_message(publish, stock=self._stock)
            # A fast span takes them in one call, and no other span has it.
            try_set = getattr(span, "try_set_attributes", None)
            if try_set is None or not try_set(attributes):
                add(span, attributes, self._set_unchecked)
        self._write_headers(publish, span, current)

    def _write_headers(self, publish: Publish, span: Span, current: Context) -> None:
        headers = publish.headers
        headers[semconv.HEADER_PUBLISHED_AT] = f"{self._clock():.6f}"
        headers.pop(semconv.HEADER_RUN_SPAN, None)  # of the run that hands its headers on
        again = publish.retries
        if again is not None and isinstance(again.parent_span, Context) and not is_untraced():
            anchor = trace.get_current_span(again.parent_span)
            self._propagator.inject(headers, trace.set_span_in_context(anchor), anchor)
        else:
            publish.traceparent = self._propagator.inject(headers, current, span)
        links = None
        if again is not None or publish.header_runs is not None:
            links = links_to_send(publish, span)
        if links:
            headers[semconv.HEADER_LINKS] = write_links(links)
        else:
            headers.pop(semconv.HEADER_LINKS, None)  # an earlier attempt's

    # Runs.

    def run(self, run: Run) -> AbstractContextManager[object]:
        """Make the span of a run current until it ends."""
        if run.task in _POLLS:
            carried, _ = self._context_of_run(run)
            run.parent_span = carried
            return _Current(suppressed_in(carried), _nothing)
        span, carried, parent = self._start_run(run)
        # A fast span has its context as an attribute, too.
        fast = None if type(span) is NonRecordingSpan else getattr(span, "fast_context", None)
        address = fast or span.get_span_context()
        if type(address) is SpanContext:  # a tuple, which is read in a third of the time
            trace_id, span_id, _, flags, _, _ = address
        else:
            trace_id, span_id, flags = address.trace_id, address.span_id, address.trace_flags
        run.span = _new(SpanAddress, (trace_id, span_id, bool(flags & _SAMPLED)))
        context = with_span(span, carried)
        run.parent_span = carried if parent.is_valid else context
        return RunSpan(self._ends, run, span, context)

    def _start_run(self, run: Run) -> tuple[Span, Context, SpanContext]:
        """Return a run's span, the context that its message carries, and the span in that."""
        made = self._tracer if self._by_task is None else self._by_task[run.task]
        headers = run.headers
        if usual := run.usual:
            carried, parent = self._propagator.extract(headers)
            if semconv.HEADER_SENTRY_TRACE in headers and not parent.is_valid:
                carried, parent = self._join_sentry(run, carried, parent)
        else:
            carried, parent = self._context_of_run(run)
        name = semconv.RUN_SPAN + (run.name if run.name.isascii() else encodable(run.name))
        started = None if run.started is None else int(run.started * 1e9)
        describe = partial(of_run, run, self._stock)
        # In a pool child, the worker's main process has chosen the ids of the span.
        chosen = headers.get(semconv.HEADER_RUN_SPAN) if usual or not run.eager else None
        has_links = made.link or semconv.HEADER_LINKS in headers or (not usual and run.batch)
        token = span = None
        try:
            if chosen is not None:
                token = span_ids.NEXT.set(chosen)
            if made.start_described is not None and not has_links:  # as nearly always
                span = made.start_described(name, carried, parent, _CONSUMER, describe, started)
            if span is None:
                span = self._start_with_links(made, run, name, carried, parent, describe, started)
        finally:
            if token is not None:  # also if no span was made that takes them
                span_ids.NEXT.reset(token)
        return span, carried, parent

    def _context_of_run(self, run: Run) -> tuple[Context, SpanContext]:
        """Return what a run is a child of: what its message carries, and the span in that."""
        if run.eager:
            return self._parent_of_eager_run(run)
        carried, parent = self._propagator.extract(run.headers)
        if semconv.HEADER_SENTRY_TRACE in run.headers and not parent.is_valid:
            return self._join_sentry(run, carried, parent)
        return carried, parent

    def _join_sentry(
        self, run: Run, carried: Context, parent: SpanContext
    ) -> tuple[Context, SpanContext]:
        """Make a run whose producer has no spans a child of what that has in Sentry."""
        name = semconv.RUN_SPAN + encodable(run.name)
        tracer = self._tracer_of(run.task).tracer
        joined = outer_trace.of_message(tracer, name, run.headers, carried)
        return joined or (carried, parent)

    def _parent_of_eager_run(self, run: Run) -> tuple[Context, SpanContext]:
        current = otel_context.get_current()
        parent = trace.get_current_span(current).get_span_context()
        given = self._given_context(run.headers) if run.headers and not parent.is_valid else None
        if given is None:
            return current, parent
        return given, trace.get_current_span(given).get_span_context()

    def _start_with_links(  # noqa: PLR0913, PLR0917  # as the SDK's, and the parent
        self,
        made: TaskTracer,
        run: Run,
        name: str,
        context: Context,
        parent: SpanContext,
        describe: Describe,
        started: int | None,
    ) -> Span:
        """Start the span of a run that has links, or that the tracer can't start described."""
        header = run.headers.get(semconv.HEADER_LINKS)
        links = read_links(header) if header else []
        if run.batch:
            links += self._propagator.links_to_publishes(run.batch)
        if made.link and not run.eager:
            if parent.is_valid:
                links.append(Link(parent, {semconv.LINK_KIND: semconv.LINK_PUBLISH}))
            context, parent = Context(), INVALID_SPAN_CONTEXT
        if made.deferred is not None:
            return made.deferred.start_span(
                name, context, parent, _CONSUMER, describe, links=links, start_time=started
            )
        # Most samplers do as the publish's did: what would not be recorded is not worked out.
        dropped = parent.is_valid and not parent.trace_flags.sampled
        attributes = of_sampling(run) if dropped else whole(describe())
        span = made.tracer.start_span(name, context, _CONSUMER, attributes, links, started)
        if dropped and span.is_recording():
            add(span, whole(describe()), self._set_unchecked)
        return span


class _Current:
    """A context that is current until the exit, which calls ``end`` in it."""

    __slots__ = ("_context", "_end", "_given", "_token")

    def __init__(self, context: Context, end: Callable[..., object], *given: object) -> None:
        self._context = context
        self._end, self._given = end, given

    def __enter__(self) -> None:
        self._token = otel_context.attach(self._context)

    def __exit__(self, *_: object) -> None:
        try:
            self._end(*self._given)
        finally:
            otel_context.detach(self._token)


def _end_publish(publish: Publish, span: Span, described: Broker) -> None:
    try:
        if publish.broker is not described:
            span.set_attributes(of_broker(publish.broker))
        if publish.error is not None:
            record_error(span, publish.error)
    finally:
        span.end()


def _end_canvas(canvas: Canvas, span: Span) -> None:
    try:
        if canvas.error is not None:
            record_error(span, canvas.error)
    finally:
        span.end()


def _nothing() -> None: ...
