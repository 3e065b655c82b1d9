"""Rules of tasks on Sentry's events."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import sentry_sdk
from celery.exceptions import MaxRetriesExceededError

from taskobs.config.task_rules import TaskRule, TaskRules
from taskobs.model import Outcome
from taskobs.observers.sentry.event_rule import EventRule
from taskobs.observers.sentry.observer import SentryObserver
from taskobs.sentry.event_rules import event_rules
from taskobs.sentry.pipeline import SentryPipeline
from tests.support.sentry import (
    Kept,
    Settings,
    clear_isolation_scope,
    fail,
    make_run,
    raised,
    user_init,
)

Start = Callable[..., tuple[Kept, SentryObserver]]
SILENT: dict[str, TaskRule] = {"heart*": {"errors": False}}
CARD = "4111-1111-1111-1111"


@pytest.fixture
def start() -> Iterator[Start]:
    """Start a pipeline over a user-made client, and undo both afterwards."""
    pipelines: list[SentryPipeline] = []

    def begin(
        tasks: dict[str, TaskRule], *, send_arguments: bool = False, **options: Any
    ) -> tuple[Kept, SentryObserver]:
        kept = user_init(**options)
        pipelines.append(SentryPipeline.start(Settings(send_arguments=send_arguments)))
        default = EventRule(send_arguments=send_arguments)
        rules = event_rules(TaskRules(tasks), default)
        return kept, SentryObserver(pipelines[0], default, rules)

    yield begin
    for pipeline in pipelines:
        pipeline.close(1.0)
    sentry_sdk.get_global_scope().set_client(None)
    clear_isolation_scope()


def named(name: str, **changes: Any) -> Any:
    return make_run(**{"task": name, "name": name, "outcome": Outcome.FAILED, **changes})


def names(kept: Kept) -> list[str]:
    return [event["transaction"] for event in kept.events]


@pytest.mark.parametrize("outcome", [Outcome.FAILED, Outcome.LOST, Outcome.UNKNOWN])
def test_failures_of_a_silent_task_are_no_events(start: Start, outcome: Outcome) -> None:
    """My heartbeat fails now and then, or is killed: nobody is told; others are as ever."""
    kept, observer = start(SILENT)
    for name in ("heartbeat", "shop.pay", "heartache"):
        fail(observer, named(name, outcome=outcome))
    assert names(kept) == ["shop.pay"]


def test_a_silent_run_that_its_worker_reports_is_no_event(start: Start) -> None:
    """The worker's main process, which opens no run in Sentry, keeps to the rule, too."""
    kept, observer = start(SILENT)
    for name in ("heartbeat", "shop.pay"):
        run = named(name, outcome=Outcome.LOST)
        run.exception = raised(RuntimeError("signal 9"))
        observer.failed(run)
        assert (run.event_id is None) == (name == "heartbeat")
    assert names(kept) == ["shop.pay"]


def test_what_a_silent_task_captures_and_fails_by_is_no_event(start: Start) -> None:
    """`log.exception(...); raise` is the failure: it is left out, before and after."""
    kept, observer = start(SILENT)
    run, error = named("heartbeat"), raised(ValueError("no pulse"))
    with observer.run(run):
        sentry_sdk.capture_exception(error)
        run.exception = error
        observer.failed(run)
        sentry_sdk.capture_exception(error)
    assert kept.events == []
    assert run.event_id is None


def test_what_a_silent_task_handles_or_says_is_an_event(start: Start) -> None:
    """The rule is for failures: what my code captures by itself is sent."""
    kept, observer = start(SILENT)
    with observer.run(named("heartbeat")):
        sentry_sdk.capture_message("look here")
        try:
            int("handled")
        except ValueError as error:
            sentry_sdk.capture_exception(error)
    assert len(kept.events) == 2
    assert {event["tags"]["celery.task"] for event in kept.events} == {"heartbeat"}


def test_a_task_that_calls_a_silent_one_fails_as_ever(start: Start) -> None:
    """An eager run fails silently; the exception ends its caller, whose failure is an event."""
    kept, observer = start(SILENT)
    outer, inner = named("shop.pay", task_id="outer"), named("heartbeat", task_id="inner")
    error = raised(ValueError("no pulse"))
    with observer.run(outer):
        with observer.run(inner):
            inner.exception = error
            observer.failed(inner)
        outer.exception = error
        observer.failed(outer)
    assert names(kept) == ["shop.pay"]
    assert (outer.event_id is None, inner.event_id is None) == (False, True)


def test_a_log_line_about_a_silent_failure_is_no_event(start: Start) -> None:
    """The worker's own line about a killed child says the same: it is left out, too."""
    kept, observer = start(SILENT)
    error = RuntimeError("Worker exited prematurely: signal 9 (SIGKILL) Job: 3.")
    run = named("heartbeat", outcome=Outcome.LOST)
    run.exception = error
    observer.failed(run)
    for line in ("Task handler raised error: %r", "another trouble"):
        logging.getLogger("shop").error(line, *[error] * line.count("%"))
    assert [event["logentry"]["message"] for event in kept.events] == ["another trouble"]


# Arguments.


def arguments(event: dict[str, Any]) -> tuple[Any, Any]:
    context = event["contexts"]["celery"]
    return context.get("args"), context.get("kwargs")


def variables(event: dict[str, Any]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = event["exception"]["values"]
    return [
        frame["vars"] for row in rows for frame in row["stacktrace"]["frames"] if "vars" in frame
    ]


@pytest.mark.parametrize("everywhere", [True, False])
def test_a_rule_sends_the_arguments_of_its_tasks(start: Start, *, everywhere: bool) -> None:
    """Of my imports I see what failed, scrubbed; of payments nothing, whatever `init()` says."""
    rules: dict[str, TaskRule] = {
        "imports.*": {"send_arguments": True},
        "pay.*": {"send_arguments": False},
    }
    kept, observer = start(rules, send_arguments=everywhere)
    for name in ("imports.a", "pay.a", "other"):
        call = {"args": (CARD,), "kwargs": {"file": "a.csv", "password": "hunter2"}}
        fail(observer, named(name, **call))
    imports, pay, other = kept.events
    assert arguments(imports) == ([CARD], {"file": "a.csv", "password": "[Filtered]"})
    assert imports["extra"]["celery-job"]["kwargs"]["file"] == "a.csv"
    assert arguments(pay) == (None, None)
    assert pay["extra"]["celery-job"]["args"] == "[Filtered]"
    assert CARD not in str(pay)
    assert "hunter2" not in str(kept.events)
    assert variables(imports)
    assert variables(pay) == []
    assert bool(arguments(other)[0]) == bool(variables(other)) == everywhere


def test_arguments_are_cut_short(start: Start) -> None:
    """A file of 10 MB as an argument is no event of 10 MB."""
    kept, observer = start({"*": {"send_arguments": True}})
    fail(observer, named("imports.a", args=("x" * 10_000_000, list(range(1_000_000)))))
    assert len(str(kept.events[0]["contexts"]["celery"])) < 20_000


def test_what_celery_writes_of_arguments_is_removed_by_rule(start: Start) -> None:
    """All but payments send arguments: Celery's own texts with those of a payment don't."""
    kept, observer = start({"pay.*": {"send_arguments": False}}, send_arguments=True)
    text = f"Can't retry shop.pay[1] args:({CARD!r},) kwargs:{{}}"
    for name in ("pay.a", "other"):
        fail(observer, named(name), MaxRetriesExceededError(text))
    pay, other = (event["exception"]["values"][-1]["value"] for event in kept.events)
    assert CARD not in pay
    assert CARD in other


# Traces of their own.


def test_a_linked_run_without_spans_has_a_trace_of_its_own_in_sentry(start: Start) -> None:
    """With errors alone, the event of an import is not in the trace of who asked for it."""
    kept, observer = start({"imports.*": {"link": True}})
    header = {"sentry-trace": f"{'a' * 32}-{'b' * 16}"}
    for name in ("imports.a", "other"):
        fail(observer, named(name, headers=header))
    traces = [event["contexts"]["trace"]["trace_id"] for event in kept.events]
    assert traces[1] == "a" * 32
    assert traces[0] != "a" * 32
