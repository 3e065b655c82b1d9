"""Spans: one for each publish, one for each run, in one trace."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from typing import Final

from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.metrics import Histogram
from opentelemetry.trace import Link, Span, SpanKind, StatusCode, Tracer
from opentelemetry.util.types import AttributeValue

from taskobs import ids, names, propagation
from taskobs.facts import Outcome, Publish, Run, SpanAddress
from taskobs.observers.attributes import (
    MESSAGE_CHARS,
    Attributes,
    encodable,
    message_of,
    of_message,
    of_publish,
    of_run,
    present,
    record_error,
    record_exception,
    type_of,
)
from taskobs.observers.base import Observer

# Celery polls for the end of a chord by retrying this task: it is no work of anybody's.
_POLLS: Final = frozenset({"celery.chord_unlock"})
_ERRORS: Final = frozenset({Outcome.FAILED, Outcome.LOST, Outcome.UNKNOWN})


class SpanObserver(Observer):
    """Makes ``publish {task}`` and ``run {task}`` spans, and passes the trace on in headers.

    ``use_span_links`` makes a run the root of a trace of its own, linked to its publish, as
    the stock instrumentation's option of that name does; baggage still arrives.
    """

    def __init__(
        self,
        tracer: Tracer,
        histogram: Histogram,
        *,
        stock_attributes: bool = True,
        use_span_links: bool = False,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._tracer = tracer
        self._histogram = histogram
        self._stock = stock_attributes
        self._use_links = use_span_links
        self._clock = clock

    # Publishes.

    @contextmanager
    def publish(self, publish: Publish) -> Generator[None]:
        """Make the span of a publish current until the message is sent, or refused."""
        if publish.task in _POLLS:
            yield
            return
        # The attempts of a task are siblings: all hang on what the first one hangs on.
        parent = publish.retries.parent_span if publish.retries else None
        if publish.schedule is not None:
            parent = otel_context.Context()  # a tick is nobody's child, whatever is current
        context = parent if isinstance(parent, otel_context.Context) else None
        span = self._tracer.start_span(
            names.PUBLISH_SPAN + encodable(publish.name),
            context=context,
            kind=SpanKind.PRODUCER,
            attributes=of_publish(publish),
        )
        with _current(span, context if publish.schedule is not None else None):
            yield
            if publish.error is not None:
                record_error(span, publish.error)

    @contextmanager
    def canvas(self, kind: str) -> Generator[None]:
        """Give the parts of a group or chord one trace when there is no span to hang them on."""
        if trace.get_current_span().get_span_context().is_valid:
            yield
            return
        name = names.PUBLISH_SPAN + kind
        with _current(self._tracer.start_span(name, attributes={names.CELERY_TASK_NAME: kind})):
            yield

    def sending(self, publish: Publish) -> None:
        """Describe the span, now that the message is routed, and write the headers."""
        span = trace.get_current_span()
        if publish.task not in _POLLS and span.is_recording():
            if publish.name != publish.task:
                span.update_name(names.PUBLISH_SPAN + encodable(publish.name))
            span.set_attributes(self._message_attributes(publish))
        self._write_headers(publish, span)

    def _write_headers(self, publish: Publish, span: Span) -> None:
        headers = publish.headers
        headers[names.HEADER_PUBLISHED_AT] = f"{self._clock():.6f}"
        headers.pop(names.HEADER_RUN_SPAN, None)  # of the run that hands its headers on
        again = publish.retries
        if again is not None and isinstance(again.parent_span, otel_context.Context):
            anchor = trace.get_current_span(again.parent_span)
            propagation.inject(headers, trace.set_span_in_context(anchor))
        else:
            propagation.inject(headers)
        links = self._links_to_send(publish, span)
        if links:
            headers[names.HEADER_LINKS] = propagation.write_links(links)
        else:
            headers.pop(names.HEADER_LINKS, None)  # an earlier attempt's

    def _links_to_send(self, publish: Publish, span: Span) -> list[tuple[str, str]]:
        links: list[tuple[str, str]] = []
        again = publish.retries
        if again is not None and again.span is not None:
            links.append((names.LINK_RETRY_OF, again.span.traceparent))
            links.append((names.LINK_PUBLISH, propagation.address_of(span.get_span_context())))
        if publish.header_runs is not None:
            links += [(names.LINK_CHORD_HEADER, address) for address in publish.header_runs.get()]
        return links

    def _message_attributes(self, publish: Publish) -> Mapping[str, AttributeValue]:
        return self._with_stock(of_message(publish), publish.stock)

    def _with_stock(
        self, attributes: Attributes, stock: Callable[[], Mapping[str, object]]
    ) -> Mapping[str, AttributeValue]:
        return {**present(stock()), **attributes} if self._stock else attributes

    # Runs.

    @contextmanager
    def run(self, run: Run) -> Generator[None]:
        """Make the span of a run current until it ends."""
        carried = otel_context.get_current() if run.eager else propagation.extract(run.header)
        if run.task in _POLLS:
            run.parent_span = carried
            with _attached(carried):
                yield
            return
        span = self._start_run(run, carried)
        address = span.get_span_context()
        run.span = SpanAddress(
            f"{address.trace_id:032x}", f"{address.span_id:016x}", address.trace_flags.sampled
        )
        context = trace.set_span_in_context(span, carried)
        run.parent_span = carried if propagation.has_span(carried) else context
        started = run.started or self._clock()
        with _attached(context):
            try:
                yield
            finally:
                if not run.abandoned:
                    self._end_run(run, span)
                    labels = {"task": run.task, "worker": run.hostname or ""}
                    self._histogram.record(self._clock() - started, labels)

    def _start_run(self, run: Run, carried: otel_context.Context) -> Span:
        links = propagation.read_links(run.header(names.HEADER_LINKS))
        parent = carried
        if self._use_links and not run.eager:
            publish = trace.get_current_span(carried).get_span_context()
            links += (
                [Link(publish, {names.LINK_KIND: names.LINK_PUBLISH})] if publish.is_valid else []
            )
            parent = otel_context.Context()
        chosen = None if run.eager else ids.read(run.header(names.HEADER_RUN_SPAN))
        with ids.given(chosen):
            return self._tracer.start_span(
                names.RUN_SPAN + encodable(run.name),
                context=parent,
                kind=SpanKind.CONSUMER,
                attributes=self._with_stock(of_run(run), run.stock),
                links=links,
                start_time=None if run.started is None else int(run.started * 1e9),
            )

    def _end_run(self, run: Run, span: Span) -> None:
        if span.is_recording():
            outcome = run.outcome or Outcome.SUCCEEDED
            if outcome in _ERRORS and not run.expected:
                span.set_status(StatusCode.ERROR, message_of(run.exception))
            if run.exception is not None:
                record_exception(span, run.exception)
                if outcome in _ERRORS and not run.expected:
                    span.set_attribute(names.ERROR_TYPE, type_of(run.exception))
            span.set_attributes(self._end_attributes(run, outcome))
        span.end()

    def _end_attributes(self, run: Run, outcome: Outcome) -> Attributes:
        attributes: Attributes = {names.CELERY_OUTCOME: outcome.value}
        if run.expected:
            attributes[names.CELERY_EXPECTED] = True
        if run.reason is not None:
            reason = run.reason[:MESSAGE_CHARS]
            attributes[names.CELERY_REASON] = reason
            if self._stock and outcome is Outcome.RETRIED:
                attributes[names.CELERY_RETRY_REASON] = reason
        if run.signal is not None:
            attributes[names.CELERY_SIGNAL] = run.signal
        if run.exit_code is not None:
            attributes[names.PROCESS_EXIT_CODE] = run.exit_code
        if run.requeued:
            attributes[names.CELERY_REQUEUED] = True
        if run.event_id is not None:
            attributes[names.SENTRY_EVENT_ID] = run.event_id
        return attributes


@contextmanager
def _current(span: Span, context: otel_context.Context | None = None) -> Generator[None]:
    with _attached(trace.set_span_in_context(span, context)):
        try:
            yield
        finally:
            span.end()


@contextmanager
def _attached(context: otel_context.Context) -> Generator[None]:
    token = otel_context.attach(context)
    try:
        yield
    finally:
        otel_context.detach(token)
