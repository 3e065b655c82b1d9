"""Hooks: functions of mine that see each publish and each run, and can't harm any."""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import pytest
from billiard.exceptions import SoftTimeLimitExceeded
from celery import Celery
from opentelemetry.trace import INVALID_SPAN, Span

import taskobs
from taskobs.config.settings import resolve
from taskobs.model import ExternalOutcome, Outcome, Publish, Run
from taskobs.observers.base import Observer
from taskobs.otel.task_spans import shared_task_signals
from taskobs.session.api.hooks import Hooks
from tests.support.recording import Recorder, attribute, span_id

Hooking = Callable[..., AbstractContextManager[None]]


@contextmanager
def hooked(**settings: object) -> Generator[None]:
    """Call hooks as a session with these settings does."""
    hooks = Hooks(resolve(settings, {}))
    hooks.install()
    try:
        yield
    finally:
        hooks.remove()


def with_task(app: Celery, body: Callable[[], object] = lambda: None) -> Any:
    @app.task(name="pay")
    def pay() -> object:
        return body()

    return pay


def test_hooks_get_the_record_and_the_span(app: Celery, spans: Recorder) -> None:
    """I put what I know of my task on its spans, by name, outcome and header."""
    outcomes: list[Outcome | None] = []

    def on_publish(publish: Publish, span: Span) -> None:
        span.set_attribute("my.queue", str(publish.queue))
        publish.headers["mine"] = "travels"

    def on_run(run: Run, span: Span) -> None:
        span.set_attribute("my.task", run.task)
        outcomes.append(run.outcome)

    def on_run_end(run: Run, span: Span) -> None:
        span.set_attribute("my.outcome", str(run.outcome and run.outcome.value))
        outcomes.append(run.outcome)

    pay = with_task(app)
    with hooked(on_publish=on_publish, on_run=on_run, on_run_end=on_run_end):
        result = pay.apply_async()
        pay.apply()
    assert result
    assert attribute(spans.one("publish pay"), "my.queue") == "celery"
    run = spans.one("run pay")
    assert attribute(run, "my.task") == "pay"
    assert attribute(run, "my.outcome") == "succeeded"
    assert outcomes == [None, Outcome.SUCCEEDED]
    pay.apply()
    assert attribute(spans.named("run pay")[1], "my.task") is None


def test_the_span_is_the_runs_whatever_is_current_at_its_end(app: Celery, spans: Recorder) -> None:
    """My task leaves another span current, and the hook gets the run's."""
    from opentelemetry import context, trace

    got: list[int] = []
    tokens: list[Any] = []

    def body() -> None:
        leaked = trace.set_span_in_context(INVALID_SPAN)
        tokens.append(context.attach(leaked))

    def on_run_end(_: Run, span: Span) -> None:
        got.append(span.get_span_context().span_id)

    pay = with_task(app, body)
    with hooked(on_run_end=on_run_end):
        pay.apply()
    assert got == [span_id(spans.one("run pay"))]


@pytest.mark.parametrize("hook", ["on_publish", "on_run", "on_run_end"])
def test_a_hook_that_raises_harms_nothing(
    app: Celery, spans: Recorder, hook: str, caplog: pytest.LogCaptureFixture
) -> None:
    """My hook has a bug: my tasks run, and the log names it, once."""

    def broken(record: Publish | Run, _: Span) -> None:
        raise KeyError(record.task) if len(caplog.records) % 2 else ValueError(record.task)

    pay = with_task(app, lambda: 7)
    with caplog.at_level(logging.WARNING, "taskobs"), hooked(**{hook: broken}):
        for _ in range(3):
            pay.apply_async()
            assert pay.apply().get() == 7
    [record] = [one for one in caplog.records if one.name == "taskobs"]
    assert f"the hook {hook}=" in record.getMessage()
    assert "broken" in record.getMessage()
    assert record.exc_info
    assert spans.names.count("publish pay") == spans.names.count("run pay") == 3


def test_one_broken_hook_spares_the_others(app: Celery, spans: Recorder) -> None:
    """`on_run` fails, and `on_run_end` is called all the same."""
    ended: list[str] = []

    def broken(run: Run, span: Span) -> None:
        raise ValueError(run, span)

    def on_run_end(run: Run, _: Span) -> None:
        ended.append(run.task)

    pay = with_task(app)
    with hooked(on_run=broken, on_run_end=on_run_end):
        pay.apply()
    assert ended == ["pay"]
    assert spans.named("run pay")


def test_a_time_limit_in_a_hook_reaches_the_task(app: Celery, spans: Recorder) -> None:
    """A soft time limit strikes in my `on_publish`, and ends the task that publishes."""

    def slow(publish: Publish, span: Span) -> None:
        assert (publish.task, span) is not None
        raise SoftTimeLimitExceeded

    pay = with_task(app, lambda: app.send_task("next"))
    with hooked(on_publish=slow):
        result = pay.apply()
    assert isinstance(result.result, SoftTimeLimitExceeded)
    assert [span.status.status_code.name for span in spans.named("publish next")] == ["UNSET"]
    assert spans.one("run pay").status.status_code.name == "ERROR"


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt()], ids=repr)
def test_what_ends_the_process_passes(app: Celery, spans: Recorder, error: BaseException) -> None:
    """A hook calls `sys.exit()`: that is no bug to be logged."""

    def leave(publish: Publish, span: Span) -> None:
        assert (publish.task, span) is not None
        raise error

    with hooked(on_publish=leave), pytest.raises(type(error)):
        app.send_task("pay")
    assert spans.named("publish pay")


def test_a_hook_is_called_in_the_scope_of_the_run(app: Celery, spans: Recorder) -> None:
    """What other observers open for a run is open in my hooks, whichever came first."""
    order: list[str] = []

    class Late(Observer):
        @contextmanager
        def run(self, run: Run) -> Generator[None]:
            order.append(f"{run.task} opens")
            yield
            order.append(f"{run.task} closes")

    def note(which: str) -> Callable[[Run, Span], None]:
        return lambda run, span: order.append(which) if span and run else None

    other, pay = Late(), with_task(app)
    with hooked(on_run=note("on_run"), on_run_end=note("on_run_end")):
        shared_task_signals().attach(other)
        pay.apply()
        shared_task_signals().detach(other)
    assert order == ["pay opens", "on_run", "on_run_end", "pay closes"]
    assert spans.named("run pay")


def test_without_spans_the_span_records_nothing(app: Celery) -> None:
    """I send no spans: my hooks are called with one that ignores what is set on it."""
    got: list[tuple[str, Span]] = []

    def note(record: Publish | Run, span: Span) -> None:
        span.set_attribute("harmless", 1)
        got.append((type(record).__name__, span))

    pay = with_task(app)
    with hooked(on_publish=note, on_run=note, on_run_end=note):
        app.send_task("pay")
        pay.apply()
    assert got == [("Publish", INVALID_SPAN), ("Run", INVALID_SPAN), ("Run", INVALID_SPAN)]


def test_a_run_that_is_reported_after_its_end_has_ended(app: Celery, spans: Recorder) -> None:
    """A pool child is killed: its worker calls `on_run_end`, and not `on_run` a second time."""
    called: list[tuple[str, Outcome | None]] = []

    def on_run(run: Run, span: Span) -> None:
        called.append(("on_run", run.outcome if span else None))

    def on_run_end(run: Run, span: Span) -> None:
        called.append(("on_run_end", run.outcome if span else None))

    pay = with_task(app)
    with hooked(on_run=on_run, on_run_end=on_run_end):
        lost = ExternalOutcome(outcome=Outcome.LOST, error=KeyError("killed"))
        report_external(pay, lost)
    assert called == [("on_run_end", Outcome.LOST)]
    assert spans.named("run pay")


def report_external(task: Any, external: ExternalOutcome) -> None:
    from celery.app.task import Context

    runs: Any = shared_task_signals()._runs  # pyright: ignore[reportPrivateUsage]
    runs._external_outcome(task, Context({"id": "id-1"}), external)


def test_a_session_calls_hooks_until_it_is_closed(app: Celery) -> None:
    """I give `init()` a hook and send spans nowhere: it is called from the first publish on."""
    seen: list[str] = []

    def on_publish(publish: Publish, span: Span) -> None:
        seen.append(publish.task if span is INVALID_SPAN else "has a span")

    with taskobs.init(on_publish=on_publish, strict=True):
        app.send_task("first")
    app.send_task("second")
    assert seen == ["first"]
