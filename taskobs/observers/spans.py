"""Spans: one for each publish, one for each run, in one trace."""

from __future__ import annotations

import os
import time
import traceback
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import Final, cast

from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.metrics import Histogram
from opentelemetry.trace import Link, Span, SpanKind, StatusCode, Tracer
from opentelemetry.util.types import AttributeValue

from taskobs import names, propagation
from taskobs.facts import Broker, Outcome, Publish, Run, SpanAddress
from taskobs.observers.base import Observer

_MESSAGE_CHARS: Final = 4_096
_STACKTRACE_CHARS: Final = 32_768
# Celery polls for the end of a chord by retrying this task: it is no work of anybody's.
_POLLS: Final = frozenset({"celery.chord_unlock"})
_ERRORS: Final = frozenset({Outcome.FAILED, Outcome.LOST, Outcome.UNKNOWN})

Attributes = dict[str, AttributeValue]


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
            names.PUBLISH_SPAN + _encodable(publish.name),
            context=context,
            kind=SpanKind.PRODUCER,
            attributes=_publish_attributes(publish),
        )
        with _current(span, context if publish.schedule is not None else None):
            yield
            if publish.error is not None:
                _record_error(span, publish.error)

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
                span.update_name(names.PUBLISH_SPAN + _encodable(publish.name))
            span.set_attributes(self._message_attributes(publish))
        self._write_headers(publish, span)

    def _write_headers(self, publish: Publish, span: Span) -> None:
        headers = publish.headers
        headers[names.HEADER_PUBLISHED_AT] = f"{self._clock():.6f}"
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
        attributes = _present(
            {
                names.MESSAGING_MESSAGE_ID: publish.task_id,
                names.MESSAGING_DESTINATION_NAME: _destination(publish),
                names.CELERY_INNER_TASK: publish.name if publish.name != publish.task else None,
                names.CELERY_ROOT_ID: publish.root_id,
                names.CELERY_PARENT_ID: publish.parent_id,
                names.CELERY_GROUP_ID: publish.group_id,
                names.CELERY_ATTEMPT: publish.attempt,
                names.CELERY_ETA: publish.eta,
                names.CELERY_EXPIRES: publish.expires,
                names.CELERY_PRIORITY: publish.priority,
            }
        )
        if publish.broker.system == "rabbitmq" and publish.routing_key:
            attributes[names.MESSAGING_ROUTING_KEY] = publish.routing_key
        return self._with_stock(attributes, publish.stock)

    def _with_stock(
        self, attributes: Attributes, stock: Callable[[], Mapping[str, object]]
    ) -> Mapping[str, AttributeValue]:
        return {**_present(stock()), **attributes} if self._stock else attributes

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
        return self._tracer.start_span(
            names.RUN_SPAN + _encodable(run.name),
            context=parent,
            kind=SpanKind.CONSUMER,
            attributes=self._with_stock(_run_attributes(run), run.stock),
            links=links,
            start_time=None if run.started is None else int(run.started * 1e9),
        )

    def _end_run(self, run: Run, span: Span) -> None:
        if span.is_recording():
            outcome = run.outcome or Outcome.SUCCEEDED
            if outcome in _ERRORS and not run.expected:
                span.set_status(StatusCode.ERROR, _message(run.exception))
            if run.exception is not None:
                _record_exception(span, run.exception)
                if outcome in _ERRORS and not run.expected:
                    span.set_attribute(names.ERROR_TYPE, _type(run.exception))
            span.set_attributes(self._end_attributes(run, outcome))
        span.end()

    def _end_attributes(self, run: Run, outcome: Outcome) -> Attributes:
        attributes: Attributes = {names.CELERY_OUTCOME: outcome.value}
        if run.expected:
            attributes[names.CELERY_EXPECTED] = True
        if run.reason is not None:
            reason = run.reason[:_MESSAGE_CHARS]
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


def _broker_attributes(broker: Broker) -> Attributes:
    return _present(
        {
            names.MESSAGING_SYSTEM: broker.system,
            names.SERVER_ADDRESS: broker.address,
            names.SERVER_PORT: broker.port or None,
        }
    )


def _publish_attributes(publish: Publish) -> Attributes:
    return {
        **_broker_attributes(publish.broker),
        names.MESSAGING_OPERATION_NAME: "publish",
        names.MESSAGING_OPERATION_TYPE: "send",
        names.CELERY_TASK_NAME: publish.task,
        names.PROCESS_PID: os.getpid(),
        **_present(
            {names.CELERY_SCHEDULE_ENTRY: publish.schedule.entry if publish.schedule else None}
        ),
    }


def _run_attributes(run: Run) -> Attributes:
    attributes = _broker_attributes(run.broker)
    attributes.update(
        _present(
            {
                names.MESSAGING_OPERATION_NAME: "run",
                names.MESSAGING_OPERATION_TYPE: "process",
                names.MESSAGING_MESSAGE_ID: run.task_id,
                names.MESSAGING_DESTINATION_NAME: _destination(run),
                names.CELERY_TASK_NAME: run.task,
                names.CELERY_INNER_TASK: run.name if run.name != run.task else None,
                names.CELERY_ROOT_ID: run.root_id,
                names.CELERY_PARENT_ID: run.parent_id,
                names.CELERY_GROUP_ID: run.group_id,
                names.CELERY_ATTEMPT: run.attempt,
                names.CELERY_SCHEDULE_ENTRY: run.schedule_entry,
                names.CELERY_QUEUE_LATENCY: run.queue_latency,
                names.CELERY_ETA: run.eta,
                names.CELERY_EXPIRES: run.expires,
                names.CELERY_PRIORITY: run.priority,
                names.CELERY_HOSTNAME: run.hostname,
                names.CELERY_ORIGIN: run.origin,
                names.CELERY_EAGER: run.eager or None,
                names.CELERY_REDELIVERED: run.redelivered or None,
                names.PROCESS_PID: run.pid or None,
            }
        )
    )
    return attributes


def _destination(fact: Publish | Run) -> str | None:
    """Name the queue; of an exchange the conventions ask for ``exchange:routing_key``."""
    if fact.queue or not fact.exchange:
        return fact.queue
    return f"{fact.exchange}:{fact.routing_key}" if fact.routing_key else fact.exchange


def _present(values: Mapping[str, object]) -> Attributes:
    return {
        key: value if isinstance(value, (str, bool, int, float)) else _sequence(value)
        for key, value in values.items()
        if value is not None and value != ""
    }


def _sequence(value: object) -> AttributeValue:
    if isinstance(value, (list, tuple)):
        return [str(item) for item in cast("Sequence[object]", value)]
    return str(value)


def _record_error(span: Span, error: BaseException) -> None:
    span.set_status(StatusCode.ERROR, _message(error))
    span.set_attribute(names.ERROR_TYPE, _type(error))
    _record_exception(span, error)


def _record_exception(span: Span, error: BaseException) -> None:
    """Add the ``exception`` event of the conventions, of bounded size.

    https://opentelemetry.io/docs/specs/semconv/exceptions/exceptions-spans/
    """
    try:
        text = "".join(traceback.format_exception(type(error), error, error.__traceback__))
    except Exception:  # noqa: BLE001  # a task's own __str__ or __cause__ may do anything
        text = _type(error)
    span.add_event(
        "exception",
        {
            "exception.type": _type(error),
            "exception.message": _message(error) or "",
            "exception.stacktrace": _encodable(text[-_STACKTRACE_CHARS:]),
        },
    )


def _message(error: BaseException | None) -> str | None:
    if error is None:
        return None
    try:
        return _encodable(str(error)[:_MESSAGE_CHARS])
    except Exception:  # noqa: BLE001  # a task's own __str__ may do anything
        return type(error).__name__


def _type(error: BaseException) -> str:
    kind = type(error)
    return (
        kind.__qualname__
        if kind.__module__ == "builtins"
        else f"{kind.__module__}.{kind.__qualname__}"
    )


def _encodable(text: str) -> str:
    """Replace lone surrogates, as in undecodable file names: one would cost a batch of spans."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()
