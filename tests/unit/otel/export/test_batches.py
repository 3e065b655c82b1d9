"""Spans of a process without a relay: batches, bounds, flushes, and a collector in trouble."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.instrumentation.utils import is_instrumentation_enabled
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

from taskobs.config.settings import resolve
from taskobs.otel.direct import PerProcessProcessor
from taskobs.otel.export import exporter as exporters
from taskobs.otel.export.batches import Limits, SpanBatches
from taskobs.otel.export.exporter import ExporterFactory
from taskobs.otel.fast_provider import FastSpanProvider
from taskobs.otel.fast_spans import FastSpan
from taskobs.otel.fast_tracer import FastSpanTracer
from tests.live.services import free_port
from tests.support.export import Backend, Reply, backend

PATIENCE = 60.0
LONG = 3600.0
"""Seconds that no test waits for."""


pytestmark = pytest.mark.skipif(
    type(FastSpanProvider(shutdown_on_exit=False).get_tracer("")) is not FastSpanTracer,
    reason="this release of the SDK makes its spans in another way",
)


class Exporter(SpanExporter):
    """Keeps the names of what it gets; waits while it is ``held``."""

    def __init__(self, *results: SpanExportResult) -> None:
        self.batches: list[list[str]] = []
        self.results = list(results)
        self.suppressed: list[bool] = []
        self.threads: list[str] = []
        self.begun, self.held = threading.Semaphore(0), threading.Event()
        self.held.set()
        self.stopped = 0

    def export(self, spans: Any) -> SpanExportResult:
        self.begun.release()
        assert self.held.wait(PATIENCE)
        self.suppressed.append(not is_instrumentation_enabled())
        self.threads.append(threading.current_thread().name)
        self.batches.append([span.name for span in spans])
        return self.results.pop(0) if self.results else SpanExportResult.SUCCESS

    def shutdown(self) -> None:
        self.stopped += 1

    @property
    def names(self) -> list[str]:
        return [name for batch in self.batches for name in batch]


class Process:
    """A provider whose fast spans wait in batches, and what was lost of them."""

    def __init__(self, exporter: SpanExporter, limits: Limits | None) -> None:
        self.lost: list[int] = []
        self.batches = SpanBatches(exporter, self.lost.append, limits)
        self.per_process = PerProcessProcessor(lambda: self.batches)
        self.provider = FastSpanProvider(shutdown_on_exit=False)
        self.provider.add_span_processor(self.per_process)
        self.provider.route_to(self.per_process)
        self.tracer = self.provider.get_tracer("shop")

    def end(self, *names: object) -> None:
        for name in names:
            self.tracer.start_span(str(name)).end()


@contextmanager
def process(exporter: SpanExporter, limits: Limits | None = None) -> Generator[Process]:
    made = Process(exporter, limits or Limits(2048, 512, LONG))
    try:
        yield made
    finally:
        made.per_process.shutdown()


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "taskobs-spans"]


@pytest.fixture
def exporter() -> Exporter:
    return Exporter()


# When spans are exported.


def test_a_full_batch_is_exported_at_once(exporter: Exporter) -> None:
    """I have many spans: they leave in batches, and nobody waits for the timer."""
    with process(exporter, Limits(100, 10, LONG)) as made:
        made.end(*range(25))
        until(lambda: len(exporter.batches) == 2)
        assert exporter.batches == [[*map(str, range(10))], [*map(str, range(10, 20))]]
        assert exporter.threads == ["taskobs-spans"] * 2
    assert exporter.batches[2] == [*map(str, range(20, 25))]
    assert made.lost == []


def test_the_rest_is_exported_by_the_timer(exporter: Exporter) -> None:
    """A quiet process sends its one span after OTEL_BSP_SCHEDULE_DELAY."""
    with process(exporter, Limits(100, 10, 0.05)) as made:
        made.end("one")
        until(lambda: exporter.names == ["one"])


def test_a_span_that_ends_wakes_nobody(exporter: Exporter, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a span costs my request is no change of threads."""
    with process(exporter, Limits(100, 10, LONG)) as made:
        made.end("first")  # starts the thread
        woken: list[object] = []
        wake = made.batches._wake  # pyright: ignore[reportPrivateUsage]
        monkeypatch.setattr(wake, "set", lambda: woken.append(1))
        made.end(*range(8))
        assert not woken
        made.end("tenth")
        assert woken
        monkeypatch.undo()


def test_there_is_no_thread_before_a_span_and_none_after_the_end(exporter: Exporter) -> None:
    before = len(threads())
    with process(exporter) as made:
        assert len(threads()) == before
        made.end("one")
        made.end("two")
        assert len(threads()) == before + 1
    until(lambda: len(threads()) == before)
    assert exporter.stopped == 1


def test_the_export_makes_no_spans(exporter: Exporter) -> None:
    """I instrument requests and urllib3: the export of my spans is none of them."""
    with process(exporter, Limits(100, 1, LONG)) as made:
        made.end("in the thread")
        until(lambda: len(exporter.batches) == 1)
        made.end("at a flush")
        assert made.provider.force_flush()
    assert all(exporter.suppressed)
    assert is_instrumentation_enabled()


# The bound.


def test_the_queue_is_bounded_and_what_is_dropped_is_counted(exporter: Exporter) -> None:
    """My collector hangs: the newest 20 spans wait, and the number of the others is told."""
    exporter.held.clear()
    with process(exporter, Limits(20, 5, LONG)) as made:
        made.end(*range(5))
        assert exporter.begun.acquire(timeout=PATIENCE)
        began = time.monotonic()
        made.end(*range(5, 1005))
        assert time.monotonic() - began < PATIENCE / 2  # nothing waits for the collector
        exporter.held.set()
    assert exporter.names == [*map(str, range(5)), *map(str, range(985, 1005))]
    assert sum(made.lost) == 980


def test_a_dead_collector_is_one_line_with_the_number_of_what_was_lost(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """My log says that spans are lost, how many and why, and not once for each."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "10")
    monkeypatch.setenv("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "10")
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "600000")  # nothing goes by itself before
    settings = resolve({"otlp_endpoint": f"http://127.0.0.1:{free_port()}"}, {})
    with caplog.at_level(logging.INFO):
        provider, spans = direct(settings)
        for number in range(25):
            provider.get_tracer("shop").start_span(str(number)).end()
        provider.force_flush()  # the machine decides whether anything is left for it
        provider.get_tracer("shop").start_span("there to flush").end()
        assert provider.force_flush() is False
        spans.shutdown()
    lines = [one.getMessage() for one in caplog.records if one.name == "taskobs"]
    assert [line for line in lines if "retrying" in line] == lines[:1]
    assert "ConnectionRefusedError" in lines[0] or "more spans ended" in lines[0]
    assert "26 lost" in lines[-1]
    assert not [one for one in caplog.records if one.name.startswith("opentelemetry")]


# Flush.


def test_a_flush_sends_all_that_has_ended_and_says_so(exporter: Exporter) -> None:
    with process(exporter, Limits(100, 10, LONG)) as made:
        assert made.provider.force_flush() is True
        made.end(*range(7))
        assert made.provider.force_flush() is True
        assert exporter.names == [*map(str, range(7))]


def test_a_flush_says_what_was_not_accepted() -> None:
    """`force_flush()` is False if my collector has refused a part of it."""
    exporter = Exporter(SpanExportResult.FAILURE)
    with process(exporter, Limits(100, 10, LONG)) as made:
        made.end(*range(7))
        assert made.provider.force_flush() is False
        made.end("next")
        assert made.provider.force_flush() is True


def test_a_flush_waits_for_the_export_under_way_and_no_longer_than_its_time(
    exporter: Exporter,
) -> None:
    """`force_flush(100)` returns after a tenth of a second, though my collector hangs."""
    exporter.held.clear()
    with process(exporter, Limits(100, 5, LONG)) as made:
        made.end(*range(5))
        assert exporter.begun.acquire(timeout=PATIENCE)
        made.end("late")
        began = time.monotonic()
        assert made.provider.force_flush(100) is False
        assert time.monotonic() - began < PATIENCE / 2
        exporter.held.set()
        assert made.provider.force_flush() is True
        assert exporter.names == [*map(str, range(5)), "late"]


def test_a_flush_sends_it_where_no_thread_can_be_started(
    exporter: Exporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The interpreter ends, and starts no threads any more: what is left is sent all the same."""

    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread at interpreter shutdown")

    with process(exporter) as made:
        monkeypatch.setattr(threading.Thread, "start", refuse)
        made.end("one")
        assert made.provider.force_flush() is True
        made.end("two")
    assert exporter.batches == [["one"], ["two"]]


def test_an_exporter_that_raises_loses_its_batch_alone(caplog: pytest.LogCaptureFixture) -> None:
    class Raising(Exporter):
        def export(self, spans: Any) -> SpanExportResult:
            super().export(spans)
            if len(self.batches) == 1:
                raise KeyError("a bug")
            return SpanExportResult.SUCCESS

    exporter = Raising()
    with process(exporter) as made:
        made.end("one")
        assert made.provider.force_flush() is False
        made.end("two")
        assert made.provider.force_flush() is True
    assert "a bug" in caplog.text


def test_what_ends_after_the_end_is_dropped(exporter: Exporter) -> None:
    with process(exporter) as made:
        made.end("one")
    made.end("late")
    assert made.provider.force_flush() is True
    assert exporter.names == ["one"]


# Signals.


@pytest.mark.parametrize("arrived", [True, False])
def test_a_time_limit_that_strikes_at_the_end_of_a_span_neither_loses_nor_repeats_it(
    exporter: Exporter, monkeypatch: pytest.MonkeyPatch, *, arrived: bool
) -> None:
    """The signal of a soft time limit may raise at any line."""

    class TimeLimitExceeded(BaseException):
        pass

    with process(exporter) as made:
        put = SpanBatches._put  # pyright: ignore[reportPrivateUsage]
        struck: list[int] = []

        def interrupted(self: SpanBatches, span: ReadableSpan) -> None:
            if struck or arrived:
                put(self, span)
            if not struck:
                struck.append(1)
                raise TimeLimitExceeded

        monkeypatch.setattr(SpanBatches, "_put", interrupted)
        with pytest.raises(TimeLimitExceeded):
            made.end("one")
    assert exporter.names == ["one"]


# The limits.


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, Limits(2048, 512, 5.0)),
        ({"MAX_QUEUE_SIZE": "100", "MAX_EXPORT_BATCH_SIZE": "10"}, Limits(100, 10, 5.0)),
        ({"SCHEDULE_DELAY": "100", "EXPORT_TIMEOUT": "1"}, Limits(2048, 512, 0.1)),
        ({"SCHEDULE_DELAY": "soon"}, Limits(2048, 512, 5.0)),
        ({"MAX_QUEUE_SIZE": "0", "MAX_EXPORT_BATCH_SIZE": ""}, Limits(2048, 512, 5.0)),
        ({"MAX_QUEUE_SIZE": "10"}, Limits(2048, 512, 5.0)),
    ],
)
def test_the_limits_are_those_of_the_sdks_variables(
    given: dict[str, str],
    expected: Limits,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """OTEL_BSP_* mean what they mean to OpenTelemetry; what it refuses is said, and left out."""
    for name, value in given.items():
        monkeypatch.setenv(f"OTEL_BSP_{name}", value)
    assert Limits.of_environment() == expected
    wrong = given in ({"SCHEDULE_DELAY": "soon"}, {"MAX_QUEUE_SIZE": "10"})
    wrong = wrong or given.get("MAX_QUEUE_SIZE") == "0"
    assert bool(caplog.records) is wrong


# What makes the spans, and what exports them.


def direct(settings: Any) -> tuple[FastSpanProvider, PerProcessProcessor]:
    """Give a provider that exports as a process without a relay does."""
    factory = ExporterFactory(settings)
    spans = PerProcessProcessor(factory.make_processor)
    provider = FastSpanProvider(shutdown_on_exit=False)
    provider.add_span_processor(spans)
    provider.route_to(spans if factory.encodes else None)
    return provider, spans


@pytest.fixture
def there() -> Iterator[Backend]:
    with backend() as made:
        yield made


def test_fast_spans_arrive_over_the_exporters_connection(there: Backend) -> None:
    """Each request has the headers of the settings, and all of them one connection."""
    headers = {"authorization": "token"}
    base = there.endpoint.removesuffix("/v1/traces")
    settings = resolve({"otlp_endpoint": base, "otlp_headers": headers}, {})
    provider, spans = direct(settings)
    for name in ("one", "two", "three"):
        span = provider.get_tracer("shop").start_span(name)
        assert type(span) is FastSpan
        span.end()
        assert provider.force_flush()
    spans.shutdown()
    assert [request.names for request in there.requests] == [["one"], ["two"], ["three"]]
    assert {request.headers["authorization"] for request in there.requests} == {"token"}


def test_the_exporters_retries_are_those_of_opentelemetry() -> None:
    """My collector is restarted: it says 503 twice, and nothing is lost or sent twice."""
    again = Reply(503, {"Retry-After": "0"})
    with backend(again, again) as there:  # the first export is made again by the exporter
        base = there.endpoint.removesuffix("/v1/traces")
        provider, spans = direct(resolve({"otlp_endpoint": base}, {}))
        provider.get_tracer("shop").start_span("one").end()
        assert provider.force_flush()
        spans.shutdown()
        assert [request.names for request in there.requests] == [["one"]] * 3
        assert len({request.body for request in there.requests}) == 1


def no_first_export(endpoint: str) -> bool:
    del endpoint
    return False


@pytest.mark.parametrize("patched", ["the processor", "the exporter", "metrics"])
def test_what_others_have_patched_is_used(
    there: Backend, monkeypatch: pytest.MonkeyPatch, patched: str
) -> None:
    """A library wraps OpenTelemetry's processor or exporter to see my spans: it sees them."""
    seen: list[str] = []
    if patched == "the processor":
        kind: Any = BatchSpanProcessor
        original = kind.on_end

        def on_end(self: Any, span: ReadableSpan) -> None:
            seen.append(span.name)
            original(self, span)

        monkeypatch.setattr(kind, "on_end", on_end)
    elif patched == "the exporter":
        exporter: Any = OTLPSpanExporter
        exports = exporter.export

        def export(self: Any, spans: list[ReadableSpan]) -> SpanExportResult:
            seen.extend(span.name for span in spans)
            result: SpanExportResult = exports(self, spans)
            return result

        monkeypatch.setattr(exporter, "export", export)
    else:
        monkeypatch.setenv("OTEL_PYTHON_SDK_INTERNAL_METRICS_ENABLED", "true")
        seen.append("one")
    base = there.endpoint.removesuffix("/v1/traces")
    settings = resolve({"otlp_endpoint": base}, {})
    made = ExporterFactory(settings)
    monkeypatch.setattr(exporters, "suits", no_first_export)
    processor = made.make_processor()
    assert (type(processor) is SpanBatches) is (patched == "the exporter")
    spans = PerProcessProcessor(lambda: processor)
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(spans)
    provider.get_tracer("shop").start_span("one").end()
    assert provider.force_flush()
    spans.shutdown()
    assert seen == ["one"]
    assert [request.names for request in there.requests] == [["one"]]
