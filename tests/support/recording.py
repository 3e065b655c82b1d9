"""Spans as tests want them: kept in memory, with ids that count up, drawn as a tree."""

# The API offers no way to unset a provider.
# pyright: reportPrivateUsage=false
from __future__ import annotations

import itertools
import threading
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from celery import Celery
from opentelemetry import trace
from opentelemetry.metrics import NoOpMeterProvider
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.id_generator import IdGenerator
from opentelemetry.sdk.trace.sampling import Sampler
from opentelemetry.util._once import Once

from taskobs.otel.instrumentor import TaskInstrumentor
from taskobs.otel.task_spans import shared_task_signals


class PrivateApp(Celery):
    """An app that keeps its tasks to itself: usually they are registered in all later apps too."""

    if not TYPE_CHECKING:

        def task(self, *args: Any, **options: Any) -> Any:
            return super().task(*args, **{**options, "shared": False})


class CountingIds(IdGenerator):
    """Trace ids 1, 2, 3 … and span ids 1, 2, 3 …: the same in each run of a test."""

    def __init__(self) -> None:
        self._traces, self._spans = itertools.count(1), itertools.count(1)

    def generate_trace_id(self) -> int:
        return next(self._traces)

    def generate_span_id(self) -> int:
        return next(self._spans)


class Recorder(SpanProcessor):
    """Keeps the spans that have ended; any thread may wait for them."""

    def __init__(self) -> None:
        self._spans: list[ReadableSpan] = []
        self._changed = threading.Condition()

    def on_end(self, span: ReadableSpan) -> None:
        with self._changed:
            self._spans.append(span)
            self._changed.notify_all()

    def clear(self) -> None:
        with self._changed:
            self._spans.clear()

    @property
    def spans(self) -> list[ReadableSpan]:
        """What has ended, in the order in which it started."""
        with self._changed:
            return sorted(self._spans, key=lambda span: (span.start_time or 0, span_id(span)))

    @property
    def names(self) -> list[str]:
        return [span.name for span in self.spans]

    def named(self, name: str) -> list[ReadableSpan]:
        return [span for span in self.spans if span.name == name]

    def one(self, name: str) -> ReadableSpan:
        """The only span of a name."""
        found = self.named(name)
        assert len(found) == 1, f"{len(found)} spans are named {name!r}: {self.names}"
        return found[0]

    def wait(self, *names: str, timeout: float = 60.0) -> None:
        """Wait until each name has ended as often as it is given."""
        wanted = {name: names.count(name) for name in names}

        def all_there() -> bool:
            seen = [span.name for span in self._spans]
            return all(seen.count(name) >= number for name, number in wanted.items())

        with self._changed:
            assert self._changed.wait_for(all_there, timeout), [span.name for span in self._spans]

    @property
    def traces(self) -> int:
        """How many traces there are."""
        return len({context_of(span).trace_id for span in self.spans})

    def tree(self) -> list[str]:
        """One line a span, indented below its parent, in the order in which they started."""
        return list(_lines(self.spans, None, ""))


def _lines(
    spans: Sequence[ReadableSpan], parent: ReadableSpan | None, indent: str
) -> Generator[str]:
    recorded = {span_id(span) for span in spans}
    for span in spans:
        above = span.parent.span_id if span.parent else None
        if above == (span_id(parent) if parent else None) or (not parent and above not in recorded):
            yield indent + span.name
            yield from _lines(spans, span, indent + "  ")


def context_of(span: ReadableSpan) -> trace.SpanContext:
    context = span.get_span_context()
    assert context is not None
    return context


def span_id(span: ReadableSpan) -> int:
    return context_of(span).span_id


def attribute(span: ReadableSpan, name: str) -> object:
    return (span.attributes or {}).get(name)


def parent_id(span: ReadableSpan) -> int | None:
    return span.parent.span_id if span.parent else None


def outcome(span: ReadableSpan) -> tuple[str, object]:
    """The status of a span and the outcome it tells."""
    return span.status.status_code.name, attribute(span, "celery.outcome")


def exceptions(span: ReadableSpan) -> list[object]:
    """The types of the exceptions recorded on a span."""
    events = [event for event in span.events if event.name == "exception"]
    return [(event.attributes or {}).get("exception.type") for event in events]


def links(span: ReadableSpan) -> list[tuple[object, int]]:
    """The kind of each link, and the span it points at."""
    return [((one.attributes or {}).get("celery.link"), one.context.span_id) for one in span.links]


def tracer_provider(recorder: Recorder, sampler: Sampler | None = None) -> TracerProvider:
    provider = TracerProvider(
        id_generator=CountingIds(),
        resource=Resource({}),
        sampler=sampler,
        shutdown_on_exit=False,
    )
    provider.add_span_processor(recorder)
    return provider


@contextmanager
def instrumented(recorder: Recorder, **options: object) -> Generator[None]:
    """Instrument Celery into ``recorder``; what goes wrong inside taskobs fails the test."""
    sampler = options.pop("sampler", None)
    assert sampler is None or isinstance(sampler, Sampler)
    instrumentor = TaskInstrumentor()
    guard = shared_task_signals().guard
    guard.counts.clear()
    instrumentor.instrument(
        skip_dep_check=True,
        tracer_provider=tracer_provider(recorder, sampler),
        meter_provider=options.pop("meter_provider", None) or NoOpMeterProvider(),
        **options,
    )
    try:
        yield
    finally:
        instrumentor.uninstrument()
    wrong = dict(guard.counts)
    guard.counts.clear()
    assert not wrong, f"telemetry failed: {wrong}"


@contextmanager
def global_provider(provider: TracerProvider | None = None) -> Generator[None]:
    """Let a test set the process's tracer provider, and unset it after."""
    if provider is not None:
        trace.set_tracer_provider(provider)
    try:
        yield
    finally:
        trace._TRACER_PROVIDER = None  # the API offers no way back
        trace._TRACER_PROVIDER_SET_ONCE = Once()
