# Some of what these tests look at has no public name.
# pyright: reportPrivateUsage=false
from __future__ import annotations

import io
import logging
import threading
import time
from typing import Any

import pytest
from celery import Celery, canvas, signals
from celery.utils.dispatch import Signal
from opentelemetry import trace
from opentelemetry.instrumentation.celery import CeleryInstrumentor
from opentelemetry.sdk.trace import TracerProvider

import taskobs
from taskobs.errors import SettingError
from taskobs.otel.task_spans import shared_task_signals
from taskobs.testing.receiver import Receiver
from tests.live.services import free_port
from tests.support.recording import PrivateApp, Recorder, global_provider, tracer_provider

SPANS = ["publish add", "run add"]


def with_task(app: Celery, name: str = "add") -> Any:
    @app.task(name=name)
    def add(x: int, y: int) -> int:
        return x + y

    return add


def process_state() -> dict[str, Any]:
    """Give all that `init()` may change in this process."""
    connected = {
        name: tuple(key for key, _ in signal.receivers or ())
        for name, signal in vars(signals).items()
        if isinstance(signal, Signal)
    }
    handlers = [
        (handler, tuple(handler.filters))
        for name in ("", "celery", "celery.task", "celery.app.trace")
        for handler in logging.getLogger(name).handlers
    ]
    return {
        "receivers": connected,
        "wrapped": (
            id(Celery.__dict__["send_task"]),  # a wrapper equals what it wraps
            id(canvas.group.__dict__["apply_async"]),
            id(canvas.chord.__dict__["apply_async"]),
        ),
        "provider": trace.get_tracer_provider(),
        "handlers": handlers,
        "instrumentor": CeleryInstrumentor._instance,
        "strict": shared_task_signals().guard.strict,
        "threads": {
            thread.name for thread in threading.enumerate() if "request_thread" not in thread.name
        },
    }


def test_one_line_sends_publishes_and_runs(app: Celery, receiver: Receiver) -> None:
    """After `init()` with an endpoint, my tasks are in the traces under my app's name."""
    add = with_task(app)
    app.set_current()
    with taskobs.init(otlp_endpoint=receiver.endpoint, strict=True):
        add.delay(1, 2)
        assert add.apply((1, 2)).get() == 3
    assert sorted(span.name for span in receiver.spans) == SPANS
    assert {span.resource["service.name"] for span in receiver.spans} == {"shop"}


def test_rules_say_what_is_sent(app: Celery, receiver: Receiver) -> None:
    """`init()` with a rule for one task: that one is not traced, all others are."""
    add, noise = with_task(app), with_task(app, "noise")
    rules: dict[str, taskobs.TaskRule] = {"noi*": {"sample_rate": 0}}
    with taskobs.init(otlp_endpoint=receiver.endpoint, tasks=rules, strict=True):
        for task in (add, noise):
            task.delay(1, 2)
            task.apply((1, 2))
    assert sorted(span.name for span in receiver.spans) == SPANS


def test_a_wrong_rule_is_refused_before_anything_is_changed() -> None:
    before = process_state()
    with pytest.raises(SettingError, match="did you mean 'errors'"):
        taskobs.init(tasks={"noise": {"error": False}})  # type: ignore[typeddict-unknown-key]  # pyright: ignore[reportArgumentType]
    assert process_state() == before


def test_close_undoes_all(app: Celery, receiver: Receiver) -> None:
    """After `close()` the process is as it was before `init()`."""
    handler = logging.StreamHandler(io.StringIO())
    logging.getLogger().addHandler(handler)
    try:
        before = process_state()
        session = taskobs.init(otlp_endpoint=receiver.endpoint, strict=True)
        changed = process_state()
        with_task(app).delay(1, 2)
        session.close()
        assert process_state() == before
        assert {key for key in before if changed[key] != before[key]} >= {
            "receivers",
            "wrapped",
            "provider",
            "handlers",
            "instrumentor",
            "strict",
        }
    finally:
        logging.getLogger().removeHandler(handler)


def test_twice_is_once(app: Celery, receiver: Receiver, caplog: pytest.LogCaptureFixture) -> None:
    """A second `init()` gives me the first session, and nothing is sent twice."""
    caplog.set_level("WARNING")  # whatever a worker in this process has set
    first = taskobs.init(otlp_endpoint=receiver.endpoint)
    again = process_state()
    assert taskobs.init() is first
    assert not caplog.records
    assert taskobs.init(log_ids=False) is first
    assert "init() was called before" in caplog.text
    assert process_state() == again
    with_task(app).apply((1, 2))
    first.close()
    first.close()
    assert [span.name for span in receiver.spans] == ["run add"]


def test_after_close_a_new_session_may_begin(app: Celery, receiver: Receiver) -> None:
    """`close()` and `init()` again work as the first time."""
    add = with_task(app)
    for _ in range(3):
        with taskobs.init(otlp_endpoint=receiver.endpoint, strict=True):
            add.apply((1, 2))
    assert [span.name for span in receiver.spans] == ["run add"] * 3


def test_every_app_is_covered(receiver: Receiver) -> None:
    """All apps of the process are covered, made before `init()` or after."""
    early = PrivateApp("early", broker="memory://", set_as_current=False)
    early_task = with_task(early, "early")
    with taskobs.init(otlp_endpoint=receiver.endpoint, strict=True):
        late_app = PrivateApp("late", broker="memory://", set_as_current=False)
        late_task = with_task(late_app, "late")
        for task in (early_task, late_task):
            task.delay(1, 2)
        early.send_task("elsewhere")
    assert sorted(span.name for span in receiver.spans) == [
        "publish early",
        "publish elsewhere",
        "publish late",
    ]


def test_nothing_configured_touches_no_task(app: Celery) -> None:
    """With nothing configured, nothing of ours is called at my publishes and runs."""
    per_task = ("before_task_publish", "after_task_publish", "task_prerun", "task_postrun")
    before = process_state()
    with taskobs.init():
        with_task(app).delay(1, 2)
        during = process_state()
        for name in per_task:
            assert not [key for key in during["receivers"][name] if "taskobs" in str(key)]
        unchanged = ("wrapped", "provider", "handlers", "instrumentor", "threads")
        assert {name: during[name] for name in unchanged} == {
            name: before[name] for name in unchanged
        }
    assert process_state() == before


def test_a_format_may_name_ids_with_nothing_configured() -> None:
    """On my laptop nothing is configured: lines of the format that production has are written."""
    line = logging.Formatter("[%(task_id)s %(trace_id)s] %(message)s")
    with taskobs.init():
        assert line.format(logging.makeLogRecord({"msg": "paid"})) == "[ ] paid"
    with pytest.raises(ValueError, match="task_id"):
        line.format(logging.makeLogRecord({"msg": "paid"}))


def test_disabled_is_silent(receiver: Receiver, caplog: pytest.LogCaptureFixture) -> None:
    """With `enabled=False` nothing happens, and nothing is said."""
    before = process_state()
    with (
        caplog.at_level(logging.DEBUG),
        taskobs.init(enabled=False, otlp_endpoint=receiver.endpoint),
    ):
        assert process_state() == before
    assert not caplog.records


def test_a_wrong_setting_changes_nothing() -> None:
    """When a setting is refused, the process is as it was, and I can try again."""
    before = process_state()
    with pytest.raises(SettingError):
        taskobs.init(otlp_endpoint="nonsense")
    assert process_state() == before


def test_a_provider_of_mine_is_used(app: Celery, receiver: Receiver) -> None:
    """If I set a TracerProvider before, spans go there and nowhere else, once."""
    recorder = Recorder()
    provider = tracer_provider(recorder)
    with global_provider(provider):
        with taskobs.init(otlp_endpoint=receiver.endpoint, strict=True):
            with_task(app).apply((1, 2))
        assert trace.get_tracer_provider() is provider
    assert recorder.names == ["run add"]
    assert not receiver.spans


def test_no_wrapped_function_of_the_api_is_called(
    app: Celery, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """New Relic's agent wraps the API and starts at a call: a fork later, it would be blind."""
    called: list[str] = []
    for name in ("get_tracer_provider", "set_tracer_provider"):
        wrapped = getattr(trace, name)
        monkeypatch.setattr(trace, name, _noting(called, name, wrapped))
    with taskobs.init(otlp_endpoint=receiver.endpoint, strict=True):
        with_task(app).apply((1, 2))
    assert [span.name for span in receiver.spans] == ["run add"]
    assert called == []


def _noting(called: list[str], name: str, wrapped: Any) -> Any:
    def call(*args: Any, **kwargs: Any) -> Any:
        called.append(name)
        return wrapped(*args, **kwargs)

    return call


def test_after_close_i_may_set_a_provider(receiver: Receiver) -> None:
    """After `close()` I may set a provider of my own, though there was one of ours."""
    with taskobs.init(otlp_endpoint=receiver.endpoint):
        assert isinstance(trace.get_tracer_provider(), TracerProvider)
        trace.get_tracer("mine").start_span("mine").end()
    mine = TracerProvider(shutdown_on_exit=False)
    with global_provider(mine):
        assert trace.get_tracer_provider() is mine


def test_the_samplers_variable_works_alone(
    app: Celery, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`OTEL_TRACES_SAMPLER_ARG=0` keeps no trace, though I name no sampler beside it."""
    monkeypatch.setenv("OTEL_TRACES_SAMPLER_ARG", "0")
    with taskobs.init(otlp_endpoint=receiver.endpoint, strict=True):
        with_task(app).apply((1, 2))
    assert not receiver.requests


def test_sampled_out_sends_no_span_but_passes_on(app: Celery, receiver: Receiver) -> None:
    """With a sample rate of 0 no span is sent, and workers still hear of the trace."""
    sent: list[Any] = []

    def note(headers: Any, **_: Any) -> None:
        sent.append(headers["traceparent"])

    with taskobs.init(otlp_endpoint=receiver.endpoint, sample_rate=0.0, strict=True):
        signals.before_task_publish.connect(note, weak=False)
        try:
            with_task(app).delay(1, 2)
        finally:
            signals.before_task_publish.disconnect(note)
    assert int(sent[0][-2:], 16) & 1 == 0
    assert {request.path for request in receiver.requests} <= {"/v1/metrics"}


@pytest.mark.parametrize("manner", ["refused", "hanging"])
def test_a_dead_collector_does_not_hold_close_up(app: Celery, manner: str) -> None:
    """When nobody takes my traces, `close()` waits no longer than `shutdown_timeout`."""
    with Receiver(port=free_port()) as receiver:
        endpoint = receiver.endpoint
        if manner == "refused":
            receiver.close()
        else:
            receiver.behave(hang=True)
        session = taskobs.init(otlp_endpoint=endpoint, shutdown_timeout=0.1)
        with_task(app).apply((1, 2))
        started = time.monotonic()
        session.close()
        assert time.monotonic() - started < 0.1 + 8  # the exporter itself gives up after 10 s
    with Receiver(port=int(endpoint.rpartition(":")[2])):  # so that the exporter's retries end
        for thread in threading.enumerate():
            if thread.name.startswith(("taskobs-flush", "OtelBatch")):
                thread.join(20)


def test_repr_tells_no_secret(receiver: Receiver) -> None:
    """What a session says of itself names no key."""
    with taskobs.init(
        otlp_endpoint=receiver.endpoint, otlp_headers={"authorization": "secret"}
    ) as session:
        where = f"{receiver.endpoint}/v1/traces"
        assert repr(session) == (
            f"<taskobs.Session of a producer: traces to {where}, errors off, metrics off>"
        )
        assert "secret" not in repr(session.settings)


@pytest.mark.parametrize("ends", ["well", "in a failure"])
def test_failures_are_kept_without_a_relay(app: Celery, receiver: Receiver, *, ends: str) -> None:
    """I sample nothing and have no relay: a worker's process sends the runs that fail."""

    @app.task(name="add")
    def add() -> None:
        trace.get_tracer("shop").start_span("query").end()
        if ends != "well":
            raise ValueError(ends)

    given: dict[str, Any] = {"sample_rate": 0, "keep": ["failed"], "relay": False}
    with taskobs.init(otlp_endpoint=receiver.endpoint, **given, strict=True):
        add.apply()
        signals.worker_process_init.send(sender=None)
        add.apply()
    kept = [] if ends == "well" else ["query", "run add"]
    assert sorted(span.name for span in receiver.spans) == kept


def test_keep_needs_our_provider(receiver: Receiver, caplog: pytest.LogCaptureFixture) -> None:
    """I have a provider of my own, whose sampler decides: one line says that `keep` is not used."""
    given: dict[str, Any] = {"otlp_endpoint": receiver.endpoint, "keep": ["failed"]}
    with global_provider(tracer_provider(Recorder())), taskobs.init(**given, strict=True):
        told = [record.getMessage() for record in caplog.records if "keep" in record.getMessage()]
    assert len(told) == 1
    assert told[0].startswith("taskobs: keep has no effect, as the app has set a TracerProvider")
