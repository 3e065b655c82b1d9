"""A publish takes shortcuts that nobody sees: message and span are as they are without them."""

from __future__ import annotations

import re
from collections.abc import Callable, Generator
from contextlib import contextmanager
from datetime import datetime, timezone
from typing import Any

import pytest
import sentry_sdk
from celery import Celery, chain, chord, group, signals
from celery.app.trace import build_tracer
from kombu.exceptions import EncodeError
from opentelemetry import baggage, propagate, trace
from opentelemetry import context as otel_context
from opentelemetry.context import Context
from opentelemetry.propagators.b3 import B3MultiFormat
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON, ParentBased, Sampler
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, TraceState

from taskobs.model import Publish
from taskobs.observers import propagation
from taskobs.observers.sentry.observer import SentryObserver
from taskobs.otel.task_spans import shared_task_signals
from taskobs.sentry.pipeline import SentryPipeline
from tests.support.recording import Recorder, exceptions, instrumented, links, outcome, parent_id
from tests.support.sentry import Settings, clear_isolation_scope, user_init

Act = Callable[[Any, Any], object]
TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
_CHANGING = re.compile(
    r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}|\b[0-9a-f]{32}\b|\b[0-9a-f]{16}\b|\d{10}\.\d+"
)
"""Ids and times: each message has others."""
_SOON = datetime(2100, 1, 1, tzinfo=timezone.utc)


@contextmanager
def below(flags: int = 1, state: str = "", **members: str) -> Generator[None]:
    """Make the span of another process current."""
    header = [state] if state else []
    parent = SpanContext(
        7,
        8,
        is_remote=True,
        trace_flags=TraceFlags(flags),
        trace_state=TraceState.from_header(header),
    )
    current = trace.set_span_in_context(NonRecordingSpan(parent))
    for name, value in members.items():
        current = baggage.set_baggage(name, value, current)
    token = otel_context.attach(current)
    try:
        yield
    finally:
        otel_context.detach(token)


@contextmanager
def receiving(receiver: Callable[..., object]) -> Generator[None]:
    signals.before_task_publish.connect(receiver, weak=False)
    try:
        yield
    finally:
        signals.before_task_publish.disconnect(receiver)


def with_headers(**headers: object) -> Act:
    return lambda _, task: task.apply_async(headers={**headers})


def in_a_context(**options: Any) -> Act:
    def act(_: Celery, task: Any) -> None:
        with below(**options):
            task.delay()

    return act


def with_a_receiver_that_raises(_: Celery, task: Any) -> None:
    def broken(**_: object) -> None:
        raise RuntimeError("mine")

    with receiving(broken):
        task.delay()


def with_a_receiver_that_leaves_a_context(_: Celery, task: Any) -> None:
    tokens: list[Any] = []

    def enter(**_: object) -> None:
        span = trace.get_current_span()
        tokens.append(otel_context.attach(trace.set_span_in_context(span, Context({"mine": 1}))))

    with receiving(enter):
        task.delay()


def that_is_refused(app: Celery, _: object) -> None:
    with pytest.raises(EncodeError):
        app.send_task("one", (object(),))


def ran(app: Celery, name: str, **fields: object) -> None:
    """Run a task as a worker does."""
    run: Any = build_tracer(name, app.tasks[name], app=app)
    run("id-1", (), {}, {"id": "id-1", "root_id": "id-1", "is_eager": False, **fields})


def from_a_run(app: Celery, _: object) -> None:
    ran(app, "publishing", traceparent=TRACEPARENT, group="group-1")


def again(app: Celery, _: object) -> None:
    ran(app, "retrying", traceparent=TRACEPARENT, **{"taskobs-published-at": "1.5"})


def eager(_: Celery, task: Any) -> None:
    task.apply()


PUBLISHES: dict[str, Act] = {
    "plain": lambda _, task: task.delay(),
    "by name": lambda app, _: app.send_task("elsewhere", (1,), {"a": 2}),
    "options": lambda _, task: task.apply_async(
        eta=_SOON, expires=_SOON, priority=3, routing_key="k", exchange="x"
    ),
    "own headers": with_headers(mine="x", headers={"nested": "y"}),
    "somebody's trace": with_headers(traceparent=TRACEPARENT, tracestate="a=b"),
    "what is no trace": with_headers(traceparent="rubbish", tracestate=5),
    "somebody's baggage": with_headers(baggage="tenant=acme,sentry-trace_id=1"),
    "no trace of Sentry's": with_headers(**{"sentry-propagate-traces": False}),
    "a trace of Sentry's": with_headers(**{"sentry-trace": "0" * 32 + "-" + "1" * 16}),
    "below a span": in_a_context(),
    "below one that is not sampled": in_a_context(flags=0),
    "below one with a state": in_a_context(state="vendor=1"),
    "with baggage": in_a_context(tenant="acme"),
    "receiver raises": with_a_receiver_that_raises,
    "receiver leaves a context": with_a_receiver_that_leaves_a_context,
    "refused": that_is_refused,
    "from a run": from_a_run,
    "retried": again,
    "eager": eager,
    "chain": lambda _, task: chain(task.si(), task.si()).apply_async(),
    "group": lambda _, task: group(task.si(), task.si()).apply_async(),
    "chord": lambda _, task: chord([task.si(), task.si()], task.si()).apply_async(),
    "map": lambda _, task: task.map([1, 2]).apply_async(),
    "polls for a chord": lambda app, _: app.send_task("celery.chord_unlock"),
}
WITHOUT_A_TRACE = {"eager", "refused", "polls for a chord"}
SAMPLERS: dict[str, Sampler | None] = {
    "default": None,
    "none": ALWAYS_OFF,
    "own": ParentBased(ALWAYS_ON, remote_parent_not_sampled=ALWAYS_ON),
}


@pytest.fixture
def task(app: Celery) -> Any:
    """Give a task, beside one that publishes it and one that is retried."""

    @app.task(name="one")
    def one(*_: object) -> None: ...

    @app.task(name="publishing")
    def publishing() -> None:
        one.delay()

    @app.task(name="retrying", bind=True, max_retries=3)
    def retrying(self: Any) -> None:
        raise self.retry(countdown=0, exc=ValueError("again"))

    assert (publishing, retrying) is not None
    return one


@contextmanager
def errors() -> Generator[None]:
    """Have Sentry's trace in messages, too."""
    user_init(auto_enabling_integrations=False)
    pipeline = SentryPipeline.start(Settings())
    observer = SentryObserver(pipeline)
    shared_task_signals().attach(observer)
    try:
        yield
    finally:
        shared_task_signals().detach(observer)
        pipeline.close(1.0)
        clear_isolation_scope()
        sentry_sdk.get_global_scope().set_client(None)


def seen(app: Celery, task: Any, act: Act, sampler: Sampler | None) -> str:
    """Publish, and give the messages and spans, with the ids numbered as they come."""
    recorder, messages = Recorder(), list[dict[str, Any]]()

    def note(headers: dict[str, Any], **_: Any) -> None:
        messages.append({name: headers[name] for name in sorted(headers)})

    before = otel_context.get_current()
    signals.after_task_publish.connect(note, weak=False)
    try:
        with instrumented(recorder, sampler=sampler), errors():
            act(app, task)
    finally:
        signals.after_task_publish.disconnect(note)
        otel_context.attach(before)
    spans = [
        (
            *(span.name, span.kind, parent_id(span), outcome(span), exceptions(span), links(span)),
            dict(sorted((span.attributes or {}).items())),
        )
        for span in recorder.spans
    ]
    numbers: dict[str, str] = {}

    def numbered(found: re.Match[str]) -> str:
        return numbers.setdefault(found[0], f"<{len(numbers)}>")

    return _CHANGING.sub(numbered, repr((messages, spans)))


def without_shortcuts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ask OpenTelemetry for the current span and the headers of each publish."""
    forgotten = property(_nothing, _nothing)
    monkeypatch.setattr(Publish, "opened", forgotten)
    monkeypatch.setattr(Publish, "traceparent", forgotten)
    monkeypatch.setattr(propagation, "_inject_plain", _nothing)


def _nothing(*_: object) -> None:
    """Know of nothing."""


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("publish", PUBLISHES)
def test_a_publish_looks_the_same_the_usual_way_and_the_full_way(
    app: Celery, task: Any, monkeypatch: pytest.MonkeyPatch, publish: str, sampler: str
) -> None:
    """Whatever I publish, and from wherever, its message and its span say the same."""
    usual = seen(app, task, PUBLISHES[publish], SAMPLERS[sampler])
    without_shortcuts(monkeypatch)
    assert usual == seen(app, task, PUBLISHES[publish], SAMPLERS[sampler])
    assert ("'traceparent': '00-<" in usual) == (publish not in WITHOUT_A_TRACE)


@pytest.fixture
def b3() -> Generator[None]:
    """Let a test have Zipkin's headers instead of W3C's."""
    before = propagate.get_global_textmap()
    propagate.set_global_textmap(B3MultiFormat())
    yield
    propagate.set_global_textmap(before)


@pytest.mark.usefixtures("b3")
@pytest.mark.parametrize("publish", ["plain", "with baggage", "from a run", "retried"])
def test_another_propagator_looks_the_same_too(
    app: Celery, task: Any, monkeypatch: pytest.MonkeyPatch, publish: str
) -> None:
    """With a propagator of my own, messages carry its headers, and Sentry's trace as before."""
    usual = seen(app, task, PUBLISHES[publish], None)
    without_shortcuts(monkeypatch)
    assert usual == seen(app, task, PUBLISHES[publish], None)
    assert "'x-b3-traceid': '<" in usual
    assert "'sentry-trace': '<" in usual
