"""Facts straight into the observer of spans, with ids and clock of the test's own."""

from __future__ import annotations

import builtins
import os
import time
from collections.abc import Callable
from typing import Any

import pytest
from celery import Celery
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.instrumentation.utils import is_instrumentation_enabled
from opentelemetry.metrics import Histogram, NoOpMeterProvider
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan

from taskobs.model import Broker, Outcome, Publish, Run, SpanAddress
from taskobs.observers.spans import SpanObserver
from taskobs.observers.task_tracer import TaskTracer, task_tracer
from tests.support.recording import Recorder, attribute, exceptions, links, outcome, tracer_provider

BROKER = Broker(system="rabbitmq", address="mq", port=5672)


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture
def observer(recorder: Recorder) -> SpanObserver:
    return SpanObserver(*_tools(recorder), clock=lambda: 1_000.5)


def _tools(recorder: Recorder) -> tuple[TaskTracer, Histogram]:
    histogram = NoOpMeterProvider().get_meter("test").create_histogram("runtime")
    return task_tracer(tracer_provider(recorder).get_tracer("test")), histogram


def snapshot(span: ReadableSpan) -> dict[str, Any]:
    """Give the whole span but its times."""
    return {
        "name": span.name,
        "kind": span.kind.name,
        "parent": span.parent.span_id if span.parent else None,
        "status": (span.status.status_code.name, span.status.description),
        "attributes": dict(span.attributes or {}),
        "events": [event.name for event in span.events],
        "links": links(span),
    }


def a_run(**records: Any) -> Run:
    defaults: dict[str, Any] = {"task": "add", "name": "add", "task_id": "id-1", "queue": "orders"}
    return Run(**defaults | records)


def test_a_publish(observer: SpanObserver, recorder: Recorder) -> None:
    """A publish is a PRODUCER span with the conventions' attributes, and writes its headers."""
    publish = Publish(task="add", name="add", broker=BROKER)
    with observer.publish(publish):
        publish.task_id, publish.queue, publish.routing_key = "id-1", "orders", "orders.eu"
        publish.root_id, publish.priority = "id-0", 5
        observer.sending(publish)
    assert [snapshot(span) for span in recorder.spans] == [
        {
            "name": "publish add",
            "kind": "PRODUCER",
            "parent": None,
            "status": ("UNSET", None),
            "attributes": {
                "messaging.system": "rabbitmq",
                "server.address": "mq",
                "server.port": 5672,
                "messaging.operation.name": "publish",
                "messaging.operation.type": "send",
                "messaging.destination.name": "orders",
                "messaging.rabbitmq.destination.routing_key": "orders.eu",
                "messaging.message.id": "id-1",
                "celery.task_id": "id-1",
                "celery.task_name": "add",
                "celery.queue": "orders",
                "celery.root_id": "id-0",
                "celery.attempt": 1,
                "celery.priority": 5,
                "process.pid": os.getpid(),
            },
            "events": [],
            "links": [],
        }
    ]
    assert str(publish.headers.pop("traceparent")).startswith(f"00-{1:032x}-{1:016x}-")
    assert publish.headers == {"taskobs-published-at": "1000.500000"}


def test_a_run(observer: SpanObserver, recorder: Recorder) -> None:
    """A run is a CONSUMER span below its publish, that tells how it went."""
    headers = {"traceparent": f"00-{7:032x}-{8:016x}-01"}
    run = a_run(
        broker=BROKER,
        headers=headers,
        queue_latency=0.25,
        hostname="celery@w1",
        origin="gen1@web",
        attempt=2,
        redelivered=True,
        pid=42,
    )
    with observer.run(run):
        assert run.span == SpanAddress(7, 1, sampled=True)
        run.outcome, run.exception = Outcome.FAILED, ValueError("no")
        run.event_id = "e1"
    assert [snapshot(span) for span in recorder.spans] == [
        {
            "name": "run add",
            "kind": "CONSUMER",
            "parent": 8,
            "status": ("ERROR", "no"),
            "attributes": {
                "messaging.system": "rabbitmq",
                "server.address": "mq",
                "server.port": 5672,
                "messaging.operation.name": "run",
                "messaging.operation.type": "process",
                "messaging.destination.name": "orders",
                "messaging.message.id": "id-1",
                "celery.task_id": "id-1",
                "celery.task_name": "add",
                "celery.queue": "orders",
                "celery.attempt": 2,
                "celery.queue_latency": 0.25,
                "celery.hostname": "celery@w1",
                "celery.origin": "gen1@web",
                "celery.redelivered": True,
                "celery.outcome": "failed",
                "celery.state": "FAILURE",
                "error.type": "ValueError",
                "sentry.event_id": "e1",
                "process.pid": 42,
            },
            "events": ["exception"],
            "links": [],
        }
    ]


def test_a_failed_run_leads_to_its_event(recorder: Recorder) -> None:
    """I click the link on a failed run's span, and see its event; a run without one has none."""
    page = "https://sentry.example/events/{event_id}?{other}"
    observer = SpanObserver(*_tools(recorder), event_url=page)
    for event_id in ("e1", None):
        run = a_run()
        with observer.run(run):
            run.outcome, run.exception, run.event_id = Outcome.FAILED, ValueError("no"), event_id
    links = [(span.attributes or {}).get("sentry.event_url") for span in recorder.spans]
    assert links == ["https://sentry.example/events/e1?{other}", None]


@pytest.mark.parametrize("eager", [True, False])
def test_a_run_without_a_trace_begins_one(
    observer: SpanObserver, recorder: Recorder, *, eager: bool
) -> None:
    """A message of an app without tracing begins a trace, whatever is current in the worker."""
    parent = trace.NonRecordingSpan(
        trace.SpanContext(98, 99, is_remote=False, trace_flags=trace.TraceFlags(1))
    )
    with trace.use_span(parent), observer.run(a_run(eager=eager)):
        pass
    assert (recorder.one("run add").parent is not None) is eager
    assert trace.get_current_span() is trace.INVALID_SPAN


@pytest.mark.parametrize("external", list(Outcome))
def test_only_failures_are_errors(
    observer: SpanObserver, recorder: Recorder, external: Outcome
) -> None:
    """Red are what failed, what was lost, and what no worker knows; nothing else is."""
    run = a_run()
    with observer.run(run):
        run.outcome = external
    red = {Outcome.FAILED, Outcome.LOST, Outcome.UNKNOWN}
    assert outcome(recorder.one("run add")) == (
        "ERROR" if external in red else "UNSET",
        external.value,
    )


def test_an_expected_failure_is_noted_and_not_red(
    observer: SpanObserver, recorder: Recorder
) -> None:
    """An exception in `throws` is on the span, and the span is not red."""
    run = a_run()
    with observer.run(run):
        run.outcome, run.exception, run.expected = Outcome.FAILED, KeyError("x"), True
    span = recorder.one("run add")
    assert outcome(span) == ("UNSET", "failed")
    assert exceptions(span) == ["KeyError"]
    assert attribute(span, "celery.expected") is True


def test_polls_of_a_chord_are_no_spans(observer: SpanObserver, recorder: Recorder) -> None:
    """Celery's polling for the end of a chord is not in my traces, and passes them on."""
    headers = {"traceparent": f"00-{7:032x}-{8:016x}-01"}
    poll = a_run(task="celery.chord_unlock", name="celery.chord_unlock", headers=headers)
    publish = Publish(task="celery.chord_unlock", name="celery.chord_unlock", within=poll)
    with observer.run(poll), observer.publish(publish):
        observer.sending(publish)
        assert not is_instrumentation_enabled(), "the poll's own commands would make spans"
    assert not recorder.spans
    assert publish.headers["traceparent"] == headers["traceparent"]


def _cause_of_itself() -> Exception:
    error, other = ValueError("a"), ValueError("b")
    error.__cause__, other.__cause__ = other, error
    return error


def _deep() -> Exception:
    error = ValueError("deep")
    for number in range(5_000):
        outer = ValueError(str(number))
        outer.__cause__ = error
        error = outer
    return error


def _group() -> Exception:
    kind: Any = getattr(builtins, "ExceptionGroup", None)
    if kind is None:
        pytest.skip("exception groups came with Python 3.11")
    group: Exception = kind("many", [ValueError(str(number)) for number in range(1_000)])
    return group


class Mute(Exception):  # noqa: N818  # a user's own
    def __str__(self) -> str:
        raise RuntimeError("no")

    __repr__ = __str__


class Number(Exception):  # noqa: N818  # a user's own
    def __str__(self) -> str:
        return b"5"  # type: ignore[return-value]  # noqa: PLE0307  # that is the point


HOSTILE: dict[str, Callable[[], Exception]] = {
    "mute": Mute,
    "number": Number,
    "huge": lambda: ValueError("x" * 10_000_000),
    "recursive": _cause_of_itself,
    "deep": _deep,
    "surrogate": lambda: ValueError("\udcff"),
    "binary": lambda: ValueError(b"\xff" * 100),
    "group": _group,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_exceptions_are_recorded_within_bounds(
    observer: SpanObserver, recorder: Recorder, name: str
) -> None:
    """Whatever my exception is like, the span is red, tells its type, and stays small."""
    error = HOSTILE[name]()
    run = a_run()
    with observer.run(run):
        run.outcome, run.exception = Outcome.FAILED, error
    span = recorder.one("run add")
    assert outcome(span) == ("ERROR", "failed")
    assert len(exceptions(span)) == 1
    (event,) = span.events
    assert sum(len(str(value)) for value in (event.attributes or {}).values()) < 50_000
    assert len(span.status.description or "") <= 4096
    encode_spans(recorder.spans)  # or the whole batch is lost


@pytest.mark.parametrize("name", ["", " ", "☃", "a" * 100_000, "\x00", "run run", "%s{}"])
def test_hostile_task_names(app: Celery, spans: Recorder, name: str) -> None:
    """Whatever a task is called, its publish has one span."""
    app.send_task(name)
    assert len(spans.spans) == 1
    assert attribute(spans.spans[0], "celery.task_name") == name


def test_a_name_that_can_not_be_encoded_costs_no_batch(
    observer: SpanObserver, recorder: Recorder
) -> None:
    """A task name that the sender made up can't keep the spans of others from being exported."""
    with observer.run(a_run(name="\udcff")), observer.publish(Publish(task="a", name="\udcff")):
        pass
    assert recorder.names == ["run ?", "publish ?"]
    encode_spans(recorder.spans)


@pytest.mark.parametrize("external", [Outcome.REJECTED, Outcome.IGNORED, Outcome.RETRIED])
def test_a_reason_that_can_not_be_encoded_is_on_the_span(
    observer: SpanObserver, recorder: Recorder, external: Outcome
) -> None:
    """A reason with an undecodable file name arrives, with a mark where it can't be told."""
    run = a_run()
    with observer.run(run):
        run.outcome, run.reason = external, "no file \udcff"
    span = recorder.one("run add")
    assert attribute(span, "celery.reason") == "no file ?"
    told = encode_spans([span]).SerializeToString()
    assert told.count(b"no file ?") == (2 if external is Outcome.RETRIED else 1)


@pytest.mark.parametrize("days", [-3, 3])
def test_a_clock_that_is_set_makes_no_run_time_of_days(recorder: Recorder, days: int) -> None:
    """The time server sets my clock while a task runs: span and histogram have what it took."""
    reader = InMemoryMetricReader()
    meters = MeterProvider([reader], shutdown_on_exit=False)
    histogram = meters.get_meter("test").create_histogram("runtime")
    tracer = tracer_provider(recorder).get_tracer("test")
    began = time.time()
    observer = SpanObserver(task_tracer(tracer), histogram, clock=lambda: began + days * 86_400)
    run = a_run(began=began)
    run.ticks = time.monotonic() - 5.0
    with observer.run(run):
        pass
    found: Any = reader.get_metrics_data()
    [point] = found.resource_metrics[0].scope_metrics[0].metrics[0].data.data_points
    assert 5.0 <= point.sum < 60.0
    end = recorder.one("run add").end_time
    assert end is not None
    assert 5.0 <= end / 1e9 - began < 60.0


def test_run_times_are_of_what_ran(recorder: Recorder) -> None:
    """An unknown task's name is no label of a metric, and a run that never began has no time."""
    reader = InMemoryMetricReader()
    meters = MeterProvider([reader], shutdown_on_exit=False)
    histogram = meters.get_meter("test").create_histogram("runtime")
    tracer = tracer_provider(recorder).get_tracer("test")
    observer = SpanObserver(task_tracer(tracer), histogram, clock=lambda: 1_000.5)
    for task, ran in (("add", True), ("other", False)):
        run = a_run(task=task, hostname="celery@w1", started=1_000.0)
        run.ran = ran
        with observer.run(run):
            pass
    found: Any = reader.get_metrics_data()
    points = found.resource_metrics[0].scope_metrics[0].metrics[0].data.data_points
    assert [(dict(point.attributes), point.count, point.sum) for point in points] == [
        ({"task": "add", "worker": "celery@w1"}, 1, 0.5)
    ]
    assert recorder.names == ["run add", "run add"]
