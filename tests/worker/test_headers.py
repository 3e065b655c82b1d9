"""What travels in a message's headers: ours, the user's, and whatever others put there."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Generator
from typing import Any

import pytest
from celery import Celery, group, signals
from celery.canvas import Signature, StampingVisitor  # type: ignore[attr-defined]  # celery-types lacks it
from opentelemetry import baggage, context, propagate, trace
from opentelemetry.propagators.b3 import B3MultiFormat, B3SingleFormat
from opentelemetry.propagators.textmap import TextMapPropagator
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF

from tests.support.recording import Recorder, attribute, context_of, instrumented, links, outcome

Get = Callable[[Any], Any]


@contextlib.contextmanager
def sent() -> Generator[list[dict[str, Any]]]:
    """Give the headers that go on the wire."""
    seen: list[dict[str, Any]] = []

    def note(headers: dict[str, Any], **_: Any) -> None:
        seen.append(headers)

    signals.before_task_publish.connect(note, weak=False)
    try:
        yield seen
    finally:
        signals.before_task_publish.disconnect(note)


@contextlib.contextmanager
def with_baggage(**members: str) -> Generator[None]:
    current = context.get_current()
    for name, value in members.items():
        current = baggage.set_baggage(name, value, current)
    token = context.attach(current)
    try:
        yield
    finally:
        context.detach(token)


@contextlib.contextmanager
def propagator(kind: TextMapPropagator) -> Generator[None]:
    before = propagate.get_global_textmap()
    propagate.set_global_textmap(kind)
    try:
        yield
    finally:
        propagate.set_global_textmap(before)


def test_headers_are_flat_strings(app: Celery, spans: Recorder, result_of: Get) -> None:
    """Our headers are plain strings, and say where the publish's span is and when it was."""
    with sent() as seen:
        result_of(app.tasks["add"].delay(1, 1))
    spans.wait("run add")
    publish = context_of(spans.one("publish add"))
    (headers,) = seen
    assert headers["traceparent"].split("-")[1:3] == [
        f"{publish.trace_id:032x}",
        f"{publish.span_id:016x}",
    ]
    assert float(headers["taskobs-published-at"]) > 0
    assert not [name for name in headers if name.startswith("taskobs") and name.endswith("links")]


def test_user_headers_and_stamps_arrive(app: Celery, spans: Recorder, result_of: Get) -> None:
    """My own headers and stamps arrive as they were."""

    class Stamps(StampingVisitor):  # type: ignore[misc]  # as above
        def on_signature(self, sig: Signature[Any], **_: Any) -> dict[str, Any]:
            assert sig
            return {"shop": "s1", "stamped_headers": ["shop"]}

    signature = app.tasks["look"].s()
    signature.stamp(Stamps())
    seen = result_of(signature.apply_async(headers={"mine": "yes"}))
    assert seen["headers"]["mine"] == "yes"
    assert seen["stamps"] == {"shop": ["s1"]} or seen["stamps"]["shop"] in ("s1", ["s1"])
    spans.wait("run look")
    assert spans.tree() == ["publish look", "  run look"]


def test_baggage_arrives_and_is_merged(app: Celery, spans: Recorder, result_of: Get) -> None:
    """My baggage arrives in the task, also beside a baggage header of somebody else's."""
    with with_baggage(tenant="acme", both="mine"):
        seen = result_of(
            app.tasks["look"].apply_async(headers={"baggage": "sentry-release=1,both=theirs"})
        )
    assert seen["baggage"] == {"tenant": "acme", "both": "mine", "sentry-release": "1"}
    assert spans


REMOTE = f"{0xABC:032x}-{0xDEF:016x}"
GIVEN = {"traceparent": f"00-{REMOTE}-01", "tracestate": "vendor=x", "baggage": "tenant=acme"}


def test_a_trace_in_the_headers_that_i_give_goes_on(
    app: Celery, spans: Recorder, result_of: Get
) -> None:
    """I publish with the trace headers of a request that no span here stands for."""
    with with_baggage(both="mine"):
        seen = result_of(app.tasks["look"].apply_async(headers=dict(GIVEN)))
    spans.wait("run look")
    publish = spans.one("publish look")
    assert publish.parent is not None
    assert (publish.parent.trace_id, publish.parent.span_id) == (0xABC, 0xDEF)
    run = spans.one("run look")
    assert run.parent is not None
    assert run.parent.span_id == context_of(publish).span_id
    assert run.parent.trace_state.get("vendor") == "x"
    assert seen["baggage"] == {"tenant": "acme", "both": "mine"}


def test_a_current_span_goes_before_the_headers_that_i_give(app: Celery, spans: Recorder) -> None:
    """The trace of the code that publishes is not left."""
    mine = trace.SpanContext(1, 2, is_remote=False, trace_flags=trace.TraceFlags(1))
    with trace.use_span(trace.NonRecordingSpan(mine)):
        app.tasks["add"].apply_async((1, 1), headers=dict(GIVEN))
    spans.wait("run add")
    assert spans.one("publish add").parent == mine


def test_a_trace_in_the_headers_of_a_group_goes_on(
    app: Celery, spans: Recorder, result_of: Get
) -> None:
    """So do those that I give to all messages of a group."""
    parts = [app.tasks["add"].s(n, n) for n in range(2)]
    result_of(group(parts).apply_async(headers=dict(GIVEN)))
    spans.wait("run add", "run add")
    assert {context_of(span).trace_id for span in spans.spans} == {0xABC}
    parent = spans.one("publish celery.group").parent
    assert parent is not None
    assert parent.span_id == 0xDEF


def test_a_trace_in_the_headers_of_an_eager_run_goes_on(app: Celery, spans: Recorder) -> None:
    """And those that I run a task with, without a broker."""
    seen = app.tasks["look"].apply(headers=dict(GIVEN)).get()
    run = spans.one("run look")
    assert run.parent is not None
    assert (run.parent.trace_id, run.parent.span_id) == (0xABC, 0xDEF)
    assert context_of(run).trace_state.get("vendor") == "x"
    assert seen["baggage"] == {"tenant": "acme"}


@pytest.mark.parametrize("given", ["", "rubbish", 7, None, ["00"], b"00"])
def test_headers_that_name_no_trace_begin_one(app: Celery, spans: Recorder, given: object) -> None:
    """Whatever I pass under that name, my task is published and run."""
    headers: Any = {"traceparent": given}
    app.tasks["look"].apply_async(headers=headers)
    spans.wait("run look")
    assert spans.tree() == ["publish look", "  run look"]


def test_baggage_arrives_with_span_links(app: Celery, result_of: Get) -> None:
    """With `use_span_links` baggage arrives as well."""
    recorder = Recorder()
    with instrumented(recorder, use_span_links=True), with_baggage(tenant="acme"):
        assert result_of(app.tasks["look"].delay())["baggage"] == {"tenant": "acme"}


@pytest.mark.parametrize("kind", [B3SingleFormat, B3MultiFormat])
def test_b3(app: Celery, spans: Recorder, result_of: Get, kind: type[TextMapPropagator]) -> None:
    """Whichever propagator my services use, the trace holds."""
    with propagator(kind()):
        seen = result_of(app.tasks["look"].delay())
        spans.wait("run look")
    assert seen["headers"]["traceparent"] is None
    assert spans.tree() == ["publish look", "  run look"]


def test_sampled_out_runs_stay_out(app: Celery, result_of: Get) -> None:
    """What is not sampled leaves no span, and the worker knows it from the headers."""
    recorder = Recorder()
    with instrumented(recorder, sampler=ALWAYS_OFF):
        seen = result_of(app.tasks["look"].delay())
    assert seen["headers"]["traceparent"].endswith("-00")
    assert not recorder.spans


def test_task_protocol_1(app: Celery, spans: Recorder, result_of: Get) -> None:
    """With the old task protocol the trace holds as well."""
    app.conf.task_protocol = 1
    try:
        app.amqp.__dict__.pop("create_task_message", None)
        app.amqp.__dict__["create_task_message"] = app.amqp.as_task_v1
        assert result_of(app.tasks["add"].delay(1, 1)) == 2
    finally:
        app.conf.task_protocol = 2
        del app.amqp.__dict__["create_task_message"]
    spans.wait("run add")
    assert spans.tree() == ["publish add", "  run add"]


def send_raw(app: Celery, task: str, args: tuple[Any, ...], headers: dict[str, Any]) -> Any:
    """Send a message as a somebody else would: past the instrumentation."""
    backend: Any = app.backend
    backend.delete(backend.get_key_for_task("raw-" + task))
    message = app.amqp.create_task_message("raw-" + task, task, args, {})
    message.headers.update(headers)
    with app.producer_pool.acquire(block=True) as producer:
        app.amqp.send_task_message(producer, task, message)
    return app.AsyncResult("raw-" + task)


LINK = "retry_of:00-" + "a" * 32 + "-" + "b" * 16 + "-01"

HOSTILE: dict[str, dict[str, Any]] = {
    "huge traceparent": {"traceparent": "00-" + "f" * 1_000_000},
    "list": {"traceparent": ["00"], "tracestate": [1], "baggage": [], "taskobs-links": [LINK]},
    "dict": {"traceparent": {"a": 1}, "baggage": {"b": 2}, "taskobs-published-at": {}},
    "number": {"traceparent": 1, "tracestate": 2.0, "baggage": 3, "taskobs-published-at": 4},
    "binary baggage": {"baggage": "\x00\xff=\udcff,\x01;;;=,=,%%%", "tracestate": "\x00=\x00"},
    "garbage": {"traceparent": "☃", "tracestate": "☃=,,,", "baggage": "☃", "taskobs-links": "☃:☃"},
    "zero ids": {"traceparent": "00-" + "0" * 32 + "-" + "0" * 16 + "-01"},
    "wrong hex": {"taskobs-links": "x:00-" + "g" * 32 + "-" + "-" * 16 + "-zz"},
    "signed hex": {"taskobs-links": "x:00-" + "-" + "1" * 31 + "-+" + "1" * 15 + "--1"},
    "many links": {"taskobs-links": ",".join([LINK] * 10_000)},
    "nan": {"taskobs-published-at": "nan"},
    "inf": {"taskobs-published-at": "-inf"},
    "negative": {"taskobs-published-at": "-1e300"},
    "nested": {"headers": ["x"]},
    "ids": {"root_id": ["r"], "parent_id": {"p": 1}, "group": 7, "group_index": "x"},
    "origin": {"origin": {"x": [1]}, "shadow": 5, "argsrepr": 7},
    "retries": {"retries": "x"},
    "negative retries": {"retries": -7},
    "long baggage": {"baggage": "a=" + "b" * 10_000, "tracestate": "a=" + "b" * 10_000},
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_headers_break_nothing(
    app: Celery, spans: Recorder, result_of: Get, name: str
) -> None:
    """Whatever a somebody else writes into the headers, the task runs and has a span."""
    assert result_of(send_raw(app, "add", (1, 1), HOSTILE[name])) == 2
    spans.wait("run add")
    run = spans.one("run add")
    assert outcome(run) == ("UNSET", "succeeded")
    assert attribute(run, "celery.queue_latency") is None or name == "number"


def test_links_are_bounded(app: Celery, spans: Recorder, result_of: Get) -> None:
    """A header of valid links makes links; more than a span can hold are cut."""
    result_of(send_raw(app, "add", (1, 1), {"taskobs-links": ",".join([LINK] * 100)}))
    spans.wait("run add")
    found = links(spans.one("run add"))
    assert set(found) == {("retry_of", 0xBBBBBBBBBBBBBBBB)}
    assert len(found) <= 128


@dataclasses.dataclass
class Wrapper:
    """A propagator as Logfire sets by default: comparable, and so not hashable."""

    wrapped: TextMapPropagator

    @property
    def fields(self) -> set[str]:
        return self.wrapped.fields

    def extract(self, *args: Any, **named: Any) -> context.Context:
        return self.wrapped.extract(*args, **named)

    def inject(self, *args: Any, **named: Any) -> None:
        self.wrapped.inject(*args, **named)


def test_a_propagator_that_cannot_be_hashed(app: Celery, spans: Recorder, result_of: Get) -> None:
    """Whichever library sets the propagator, and whatever its class, the trace holds."""
    wrapper: Any = Wrapper(propagate.get_global_textmap())
    with propagator(wrapper), with_baggage(tenant="acme"):
        seen = result_of(app.tasks["look"].delay())
        spans.wait("run look")
    assert spans.tree() == ["publish look", "  run look"]
    assert seen["baggage"] == {"tenant": "acme"}
