"""What observing may cost, in calls of functions: the same on each machine, however busy it is.

The unit is the floor, a bare span made by hand through the SDK, counted in the same process, so
that most of what another release of Python or of the SDK changes cancels out. Exporting is not
counted. When a budget is exceeded, profile before you raise it: ``make bench`` has the times.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
import sentry_sdk
from celery import Celery
from opentelemetry.metrics import NoOpMeterProvider
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.sampling import DEFAULT_ON

from taskobs import semconv
from taskobs.celery.counting.publish_counts import PublishCounts
from taskobs.celery.counting.traced import RunFigures
from taskobs.config.task_rules import TaskRules
from taskobs.internal import span_ids
from taskobs.internal.guard import Guard
from taskobs.observers.sentry.event_rule import EventRule
from taskobs.observers.sentry.observer import SentryObserver
from taskobs.otel.chosen_ids import ChosenIds
from taskobs.otel.fast_provider import FastSpanProvider
from taskobs.otel.held.processors import HoldingRelayProcessor
from taskobs.otel.held.sampler import HoldingSampler
from taskobs.otel.instrumentor import TaskInstrumentor
from taskobs.otel.relay_processor import RelayProcessor
from taskobs.otel.task_spans import TaskSpans, shared_task_signals
from taskobs.protocol.shared_memory import SharedMemory
from taskobs.relay_client.client import RelayClient
from taskobs.sentry.event_rules import event_rules
from taskobs.sentry.pipeline import SentryPipeline
from tests.budget.counting import (
    Job,
    calls,
    changes,
    floor,
    garbage,
    our_calls,
    publishing,
    running,
)
from tests.support.recording import PrivateApp
from tests.support.sentry import Settings, user_init

BUDGETS = {
    # what: (spans, spans + Sentry, not sampled), in floors: the most that was measured with the
    # oldest and the newest releases and Python 3.10 to 3.13, and a tenth more.
    "publish": (2.3, 2.5, None),
    "run": (2.7, 3.1, 2.1),
    "failing run": (3.8, 24.0, 2.5),
}
TOLD_BUDGETS = {"publish": 2.45, "run": 2.4, "failing run": 4.3}
"""The same for spans as a relay is told of them, and for metrics."""
SUCCESSES = ("publish", "run")


@pytest.fixture
def app() -> Generator[Celery]:
    """Give an app with a task that succeeds and one that fails."""
    app = PrivateApp("budget", broker="memory://", backend="cache+memory://", set_as_current=False)
    app.conf.update(task_ignore_result=True)

    @app.task(name="noop")
    def noop() -> None: ...

    @app.task(name="failing")
    def failing() -> None:
        raise ValueError("as asked")

    yield app
    app.close()


@pytest.fixture(autouse=True)
def arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have Sentry report a command of one word: cutting a list of many takes hundreds of calls."""
    monkeypatch.setattr(sys, "argv", ["celery"])


@pytest.fixture(autouse=True)
def silence() -> Generator[None]:
    """Leave out what handlers of the test runner do with Celery's records."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


def job(app: Celery, what: str, *, sampled: bool = True) -> Job:
    if what == "publish":
        return publishing(app, "noop")
    return running(app, "failing" if what == "failing run" else "noop", sampled=sampled)


def provider() -> TracerProvider:
    return TracerProvider(resource=Resource({}), shutdown_on_exit=False)


@contextmanager
def observed(*, errors: bool = False, to: TracerProvider | None = None) -> Generator[None]:
    """Observe as ``taskobs.init()`` does, up to what would be exported."""
    instrumentor = TaskInstrumentor()
    instrumentor.instrument(
        skip_dep_check=True, tracer_provider=to or provider(), meter_provider=NoOpMeterProvider()
    )
    with ExitStack() as undo:
        undo.callback(instrumentor.uninstrument)
        if errors:
            # Those of other libraries would be counted where other tests need these libraries.
            user_init(auto_enabling_integrations=False)
            undo.callback(sentry_sdk.get_isolation_scope().clear)
            undo.callback(sentry_sdk.get_global_scope().set_client, None)
            pipeline = SentryPipeline.start(Settings())
            undo.callback(pipeline.close, 1.0)
            observer = SentryObserver(pipeline)
            shared_task_signals().attach(observer)
            undo.callback(shared_task_signals().detach, observer)
        yield


def hold(app: Celery, what: str, found: float, budget: float | None) -> None:
    """Fail if what is added to bare Celery is more than ``budget`` times what the floor adds."""
    bare = calls(job(app, what))
    with_spans = "publish" if what == "publish" else "run"
    unit = -calls(job(app, with_spans))
    with floor(provider().get_tracer("floor")):
        unit += calls(job(app, with_spans))
    added = found - bare
    assert budget is not None
    assert added / unit <= budget, (
        f"observing a {what} now makes {added:.0f} calls of functions, {added / unit:.2f} times as "
        f"many as a bare span ({unit:.0f}); the budget is {budget} times: make it cheaper, or say "
        "in tests/budget/test_budget.py why it may cost more"
    )


@pytest.mark.parametrize("what", BUDGETS)
def test_spans_are_within_their_budget(app: Celery, what: str) -> None:
    """What spans add to my publish, my run and my failing run stays as small as it is."""
    with observed():
        found = calls(job(app, what))
    hold(app, what, found, BUDGETS[what][0])


@pytest.mark.parametrize("what", BUDGETS)
def test_spans_and_errors_are_within_their_budget(app: Celery, what: str) -> None:
    """What spans and Sentry add to my publish, my run and my failing run stays as it is."""
    with observed(errors=True):
        found = calls(job(app, what))
    if what == "failing run" and not hasattr(sentry_sdk, "Hub"):
        pytest.skip("Sentry 3 reads the source of each frame itself: that is its own cost")
    hold(app, what, found, BUDGETS[what][1])


@contextmanager
def told_a_relay(*, errors: bool = False, keep: bool = False) -> Generator[None]:
    """Observe as in a worker, up to the memory that is shared with its relay."""
    memory = SharedMemory.create()
    if memory is None:
        pytest.skip("this platform has no memfd_create(2)")
    client = RelayClient("/nowhere", dict[str, object], memory=memory)
    sampler = HoldingSampler(DEFAULT_ON) if keep else None
    spans = RelayProcessor(client, SpanProcessor())
    if sampler is not None:
        sampler.turn_on()
        spans = HoldingRelayProcessor(client, SpanProcessor(), sampler, Guard())
    options: dict[str, Any] = {
        "resource": Resource({}),
        "id_generator": ChosenIds(),
        "shutdown_on_exit": False,
    }
    to = FastSpanProvider(sampler=sampler, **options)
    to.add_span_processor(spans)
    to.route_to(spans)
    with ExitStack() as undo:
        undo.callback(memory.close)
        undo.callback(client.close)
        undo.enter_context(observed(to=to, errors=errors))
        for metrics in (RunFigures(), PublishCounts()):
            shared_task_signals().attach(metrics)
            undo.callback(shared_task_signals().detach, metrics)
        yield


@pytest.mark.parametrize("what", TOLD_BUDGETS)
def test_what_a_relay_is_sent_is_within_its_budget(app: Celery, what: str) -> None:
    """What a worker's own process does for my publish, my run and my failing run, to the end."""
    with told_a_relay():
        found = calls(job(app, what))
    hold(app, what, found, TOLD_BUDGETS[what])


HELD = 12
"""Calls that a held run makes beside those of a sampled one: it is marked."""


@pytest.mark.parametrize("what", ["run", "failing run"])
def test_a_held_run_costs_what_a_sampled_one_does(app: Celery, what: str) -> None:
    """With `keep`, a run that is not sampled is recorded as others are, which cost no more."""
    with told_a_relay():
        sampled = calls(job(app, what))
    with told_a_relay(keep=True):
        assert calls(job(app, what)) <= sampled
        assert calls(job(app, what, sampled=False)) <= sampled + HELD


@contextmanager
def ruled(rules: TaskRules | None) -> Generator[None]:
    """Observe with rules of tasks, up to what would be exported."""
    user_init()
    with ExitStack() as undo:
        undo.callback(sentry_sdk.get_isolation_scope().clear)
        undo.callback(sentry_sdk.get_global_scope().set_client, None)
        pipeline = SentryPipeline.start(Settings())
        undo.callback(pipeline.close, 1.0)
        spans = TaskSpans.start(
            tracer_provider=provider(), meter_provider=NoOpMeterProvider(), rules=rules
        )
        undo.callback(spans.stop)
        errors = SentryObserver(pipeline, by_task=event_rules(rules, EventRule()))
        shared_task_signals().attach(errors)
        undo.callback(shared_task_signals().detach, errors)
        yield


@pytest.mark.parametrize("what", SUCCESSES)
def test_a_rule_adds_no_call(app: Celery, what: str) -> None:
    """With rules, one of which is the task's, a publish and a run look up one name each."""
    with ruled(None):
        without = calls(job(app, what))
    with ruled(TaskRules({"other.*": {"link": True}, "noop": {"sample_rate": 1.0}})):
        assert calls(job(app, what)) <= without


CALLS, CHANGES = 47, 30
"""How many functions of ours a succeeding run calls in a pool child, and into how many modules."""


def test_a_reader_can_follow_a_run(app: Celery) -> None:
    """I read what happens to my run in a pool child, and it is few functions in few places."""
    headers = {semconv.HEADER_RUN_SPAN: span_ids.choose()}
    with told_a_relay(errors=True):
        modules = our_calls(running(app, "noop", headers=headers))
    assert len(modules) <= CALLS, modules
    assert changes(modules) <= CHANGES, modules


@pytest.mark.parametrize("what", SUCCESSES)
def test_context_values_and_hooks_cost_nothing_until_they_are_used(app: Celery, what: str) -> None:
    """I call neither `taskobs.context()` nor give hooks: nothing of theirs is called."""
    with observed(errors=True):
        modules = our_calls(job(app, what))
    assert modules
    assert not [module for module in modules if "/context/" in module or "/hooks/" in module]


@pytest.mark.parametrize("what", ["run", "failing run"])
def test_a_run_that_is_not_sampled_costs_little(app: Celery, what: str) -> None:
    """What is not recorded is not worked out either."""
    with observed():
        found = calls(job(app, what, sampled=False))
    hold(app, what, found, BUDGETS[what][2])


@pytest.mark.parametrize("what", SUCCESSES)
def test_nothing_is_left_for_the_garbage_collector(app: Celery, what: str) -> None:
    """What a publish or a run needs goes when it ends: no cycles that Python has to look for."""
    with observed(errors=True):
        found = garbage(job(app, what))
    assert found < 1, f"a {what} leaves {found:.1f} objects in reference cycles"


def test_without_observers_nothing_is_added(app: Celery) -> None:
    """With nothing configured, a run of mine makes not one call more."""
    bare = calls(job(app, "run"))
    with observed():
        pass
    assert calls(job(app, "run")) == bare
