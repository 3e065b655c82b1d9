"""Rules of tasks on spans: which traces are kept, and which runs have a trace of their own."""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

import pytest
from celery import Celery, Task, group
from opentelemetry import trace
from opentelemetry.metrics import NoOpMeterProvider
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import (
    ALWAYS_OFF,
    ALWAYS_ON,
    DEFAULT_OFF,
    DEFAULT_ON,
    Sampler,
)
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags

from taskobs import semconv
from taskobs.config.task_rules import TaskRule, TaskRules
from taskobs.internal import span_ids
from taskobs.model import Publish, Schedule
from taskobs.observers import outer_trace
from taskobs.observers.spans import SpanObserver
from taskobs.otel.fast_provider import FastSpanProvider
from taskobs.otel.task_spans import TaskSpans, shared_task_signals, stock_version
from taskobs.otel.task_tracers import TaskTracers
from tests.support.messages import run_message, sampled, sent_messages, trace_id
from tests.support.recording import Recorder, context_of, links, parent_id

Rules = dict[str, TaskRule]
Make = Callable[..., TracerProvider]


def sdks(sampler: Sampler, recorder: Recorder) -> TracerProvider:
    """Give the provider of an app."""
    made = TracerProvider(sampler=sampler, resource=Resource({}), shutdown_on_exit=False)
    made.add_span_processor(recorder)
    return made


def ours(sampler: Sampler, recorder: Recorder) -> TracerProvider:
    """Give ours, whose tracers are fast ones."""
    made = FastSpanProvider(sampler=sampler, resource=Resource({}), shutdown_on_exit=False)
    made.add_span_processor(recorder)
    return made


@pytest.fixture(params=[sdks, ours])
def make(request: pytest.FixtureRequest) -> Make:
    return request.param  # type: ignore[no-any-return]


@contextmanager
def ruled(rules: Rules, provider: trace.TracerProvider) -> Generator[TaskSpans]:
    """Observe with rules; what goes wrong inside taskobs fails the test."""
    guard = shared_task_signals().guard
    guard.counts.clear()
    spans = TaskSpans.start(
        tracer_provider=provider,
        meter_provider=NoOpMeterProvider(),
        rules=TaskRules(rules),
    )
    try:
        yield spans
    finally:
        spans.stop()
    assert not guard.counts


def above(*, sampled: bool) -> trace.Span:
    """Give the span of a request."""
    flags = TraceFlags(sampled)
    return NonRecordingSpan(SpanContext(1, 2, is_remote=False, trace_flags=flags))


def remote(*, sampled: bool) -> str:
    return f"00-{'a' * 32}-{'b' * 16}-{sampled:02x}"


def nothing() -> None: ...


def run(app: Celery, name: str, headers: dict[str, str] | None = None) -> None:
    """Run a task as a worker does, with these headers in its message."""
    if name not in app.tasks:
        app.task(name=name)(nothing)
    run_message(app, name, headers or {})


RATES: Rules = {"all.*": {"sample_rate": 1.0}, "none.*": {"sample_rate": 0.0}}


@pytest.mark.parametrize(
    "sampler",
    [DEFAULT_ON, DEFAULT_OFF, ALWAYS_ON, ALWAYS_OFF],
    ids=["default on", "default off", "always on", "always off"],
)
def test_a_rule_decides_on_traces_that_begin_with_its_task(
    app: Celery, make: Make, sampler: Sampler
) -> None:
    """Whatever the share of all others is: my reports are traced, and my heartbeat is not."""
    recorder = Recorder()
    with ruled(RATES, make(sampler, recorder)):
        for name in ("all.reports", "none.heartbeat", "other"):
            app.send_task(name)
            run(app, name)
    others = ["publish other", "run other"] if sampler in {DEFAULT_ON, ALWAYS_ON} else []
    assert recorder.names == ["publish all.reports", "run all.reports", *others]


def test_a_share_is_a_share(app: Celery, make: Make) -> None:
    """Of 400 traces a quarter is kept, more or less, where the sampler would keep all."""
    recorder = Recorder()
    with ruled({"some": {"sample_rate": 0.25}}, make(DEFAULT_ON, recorder)):
        for _ in range(400):
            app.send_task("some")
    assert 50 < len(recorder.spans) < 150
    assert recorder.traces == len(recorder.spans)


@pytest.mark.parametrize("sampled", [True, False])
@pytest.mark.parametrize("name", ["all.reports", "none.heartbeat"])
def test_the_decision_of_a_parent_stays(
    app: Celery, make: Make, name: str, *, sampled: bool
) -> None:
    """A trace is whole: what my request or the producer has decided holds for all that follows."""
    recorder = Recorder()
    with ruled(RATES, make(DEFAULT_ON, recorder)):
        with trace.use_span(above(sampled=sampled)):
            app.send_task(name)
        app.send_task(name, headers={"traceparent": remote(sampled=sampled)})
        run(app, name, {"traceparent": remote(sampled=sampled)})
    assert recorder.names == [f"publish {name}"] * 2 * sampled + [f"run {name}"] * sampled


def test_a_message_says_what_was_decided(app: Celery, make: Make) -> None:
    """My worker does not decide again: what it runs is of the trace as its message has it."""
    recorder = Recorder()
    with ruled(RATES, make(DEFAULT_ON, recorder)), sent_messages() as messages:
        for name in ("all.a", "none.a", "other"):
            app.send_task(name)
    assert [sampled(message) for message in messages] == [True, False, True]


def test_a_group_is_decided_by_its_own_name(app: Celery, make: Make) -> None:
    """The trace of a group begins with the group, whatever its tasks are."""
    recorder = Recorder()
    rules: Rules = {"celery.group": {"sample_rate": 0.0}, "add": {"sample_rate": 1.0}}
    app.task(name="add")(nothing)
    with ruled(rules, make(DEFAULT_ON, recorder)):
        group(app.signature("add"), app.signature("add")).apply_async()
    assert recorder.names == []


@pytest.mark.parametrize("task", ["all.tick", "none.tick"])
def test_a_tick_of_beat_is_decided_by_its_task(make: Make, task: str) -> None:
    """Each tick begins a trace, whatever is current: the rule of its task decides."""
    recorder = Recorder()
    tracers = TaskTracers(make(DEFAULT_ON, recorder).get_tracer("test"), TaskRules(RATES))
    histogram = NoOpMeterProvider().get_meter("test").create_histogram("runtime")
    observer = SpanObserver(tracers.default, histogram, by_task=tracers.by_task)
    tick = Publish(task=task, name=task, schedule=Schedule(entry="tick"))
    with trace.use_span(above(sampled=False)), observer.publish(tick):
        pass
    tracers.remove()
    assert recorder.names == ["publish all.tick"] * task.startswith("all")


def test_a_request_that_sentry_alone_traces_is_decided_by_the_rule(app: Celery, make: Make) -> None:
    """The publish and the run join Sentry's trace, and are kept by their own share."""
    recorder = Recorder()
    sentry = f"{'c' * 32}-{'d' * 16}"
    outer_trace.sources.append(lambda: ("c" * 32, "d" * 16))
    try:
        with ruled(RATES, make(DEFAULT_OFF, recorder)):
            for name in ("all.a", "none.a", "other"):
                app.send_task(name)
                run(app, name, {"sentry-trace": sentry})
    finally:
        outer_trace.sources.pop()
    assert recorder.names == ["publish all.a", "run all.a"]
    assert {context_of(span).trace_id for span in recorder.spans} == {int("c" * 32, 16)}


def test_a_retry_is_of_the_trace_of_its_first_attempt(app: Celery, make: Make) -> None:
    """The attempts of a task are all traced, or none: it is not decided again."""
    recorder = Recorder()

    @app.task(name="half", bind=True)
    def half(self: Task[Any, Any]) -> None:
        if not self.request.retries:
            raise self.retry(countdown=0)

    rules: Rules = {"half": {"sample_rate": 0.5}}
    with ruled(rules, make(DEFAULT_ON, recorder)), sent_messages() as messages:
        for number in range(40):
            app.send_task("half")
            run_message(app, "half", messages[2 * number])
            run_message(app, "half", messages[2 * number + 1])
    traces = {context_of(span).trace_id for span in recorder.spans}
    assert {trace_id(message) for message in messages if sampled(message)} == traces
    assert 0 < len(traces) < 40
    assert len(recorder.spans) == 4 * len(traces)  # two publishes and two runs each


def test_a_rule_holds_with_a_provider_that_is_set_later(app: Celery, make: Make) -> None:
    """My app sets its provider after `init()`: the same rules hold for its spans."""
    before, after = Recorder(), Recorder()
    with ruled(RATES, make(DEFAULT_ON, before)) as spans:
        spans.use(make(DEFAULT_OFF, after))
        for name in ("all.a", "none.a", "other"):
            app.send_task(name)
    assert (before.names, after.names) == ([], ["publish all.a"])


def test_the_sampler_of_the_app_stays_its_own(app: Celery, make: Make) -> None:
    """Rules are for tasks alone: spans of my own are sampled as ever, during and after."""
    recorder = Recorder()
    provider = make(DEFAULT_OFF, recorder)
    with ruled({"*": {"sample_rate": 1.0}}, provider):
        provider.get_tracer(semconv.STOCK_SCOPE, stock_version()).start_span("mine").end()
        app.send_task("add")
    provider.get_tracer("shop").start_span("mine").end()
    assert recorder.names == ["publish add"]


class Foreign(trace.TracerProvider):
    """A provider that is not the SDK's."""

    def __init__(self, provider: TracerProvider) -> None:
        self._provider = provider

    def get_tracer(self, *args: Any, **named: Any) -> trace.Tracer:
        return ForeignTracer(self._provider.get_tracer(*args, **named))


class ForeignTracer(trace.Tracer):
    def __init__(self, tracer: trace.Tracer) -> None:
        self._tracer = tracer

    def start_span(self, *args: Any, **named: Any) -> trace.Span:
        return self._tracer.start_span(*args, **named)

    def start_as_current_span(self, *_: Any, **__: Any) -> Any:
        raise NotImplementedError


def test_another_sdk_decides_itself_and_the_log_says_so(
    app: Celery, caplog: pytest.LogCaptureFixture
) -> None:
    """Where spans are not OpenTelemetry's own, a share has no effect, links have."""
    recorder = Recorder()
    caplog.set_level(logging.WARNING, "taskobs")
    rules: Rules = {"add": {"sample_rate": 0.0, "link": True}}
    with ruled(rules, Foreign(sdks(DEFAULT_ON, recorder))):
        run(app, "add", {"traceparent": remote(sampled=True)})
    assert links(recorder.one("run add")) == [("publish", int("b" * 16, 16))]
    assert "a sample_rate in tasks has no effect" in caplog.text


# Traces of their own.


@pytest.mark.parametrize("sampled", [True, False])
def test_a_linked_run_has_a_trace_of_its_own(app: Celery, make: Make, *, sampled: bool) -> None:
    """My imports, each hours long, are traces of their own, that lead to who asked for them."""
    recorder = Recorder()
    with ruled({"imports.*": {"link": True}}, make(DEFAULT_ON, recorder)):
        for name in ("imports.a", "other"):
            run(app, name, {"traceparent": remote(sampled=sampled)})
    linked = recorder.one("run imports.a")
    assert linked.parent is None
    assert context_of(linked).trace_id != int("a" * 32, 16)
    assert links(linked) == [("publish", int("b" * 16, 16))]
    if sampled:
        assert parent_id(recorder.one("run other")) == int("b" * 16, 16)
        assert links(recorder.one("run other")) == []


@pytest.mark.parametrize(("rate", "runs"), [(0.0, 0), (1.0, 1)])
def test_the_share_of_a_linked_run_is_its_own(
    app: Celery, make: Make, rate: float, runs: int
) -> None:
    """With a trace of its own, the rule decides though the request has decided otherwise."""
    recorder = Recorder()
    rules: Rules = {"add": {"link": True, "sample_rate": rate}}
    with ruled(rules, make(DEFAULT_ON, recorder)):
        run(app, "add", {"traceparent": remote(sampled=not rate)})
    assert len(recorder.spans) == runs


def test_what_a_linked_run_publishes_is_of_its_trace(app: Celery, make: Make) -> None:
    recorder = Recorder()

    @app.task(name="imports.a")
    def imports() -> None:
        app.send_task("add")

    with ruled({"imports.*": {"link": True}}, make(DEFAULT_ON, recorder)):
        run(app, "imports.a", {"traceparent": remote(sampled=True)})
    assert recorder.tree() == ["run imports.a", "  publish add"]


def test_an_eager_run_is_linked_to_nothing(app: Celery, make: Make) -> None:
    """An eager run has no publish: it stays a child of its caller."""
    recorder = Recorder()
    task = app.task(name="imports.a")(nothing)
    provider = make(DEFAULT_ON, recorder)
    with (
        ruled({"imports.*": {"link": True}}, provider),
        provider.get_tracer("shop").start_as_current_span("mine"),
    ):
        task.apply()
    assert recorder.tree() == ["mine", "  run imports.a"]


@pytest.mark.parametrize("rule", [{"sample_rate": 1.0}, {"link": True}, {}], ids=repr)
def test_a_linked_run_has_the_ids_that_were_chosen(app: Celery, make: Make, rule: TaskRule) -> None:
    """A killed child and its worker write the same span, whichever tracer they use."""
    recorder, chosen = Recorder(), span_ids.choose()
    with ruled({"add": rule}, make(DEFAULT_ON, recorder)) as spans:
        spans.choose_ids()
        run(app, "add", {semconv.HEADER_RUN_SPAN: chosen})
    context = context_of(recorder.one("run add"))
    assert f"{context.trace_id:032x}{context.span_id:016x}" == chosen
