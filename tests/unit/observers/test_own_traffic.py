"""What Celery does for itself, with libraries that are instrumented."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import pytest
from celery import Celery, signals
from celery.beat import Scheduler, Service
from opentelemetry.context import Context, attach, detach, get_current
from opentelemetry.instrumentation.utils import is_instrumentation_enabled, suppress_instrumentation

from taskobs.celery.patches.own_traffic import BeatTraffic, WorkerTraffic
from taskobs.observers.own_traffic import lift_after_fork, lifted, suppressed, suppressed_in
from tests.support.recording import Recorder, context_of, parent_id, tracer_provider


@pytest.fixture(autouse=True)
def empty() -> Generator[None]:
    """Begin in an empty context, and find it at the end."""
    yield
    assert is_instrumentation_enabled()


def test_libraries_make_spans_again_for_the_app() -> None:
    """My library is instrumented: Celery's use of it is no trace, mine is one."""
    with suppressed(), suppressed():
        assert not is_instrumentation_enabled()
        with lifted():
            assert is_instrumentation_enabled()
        assert not is_instrumentation_enabled()
    assert is_instrumentation_enabled()


def test_what_the_app_suppresses_stays_so() -> None:
    """I suppress instrumentations myself: nobody lifts that."""
    with suppress_instrumentation(), lifted():
        assert not is_instrumentation_enabled()
        lift_after_fork()
        assert not is_instrumentation_enabled()


def test_a_forked_child_begins_without_it() -> None:
    """My pool child is forked by the worker's loop: what it calls before its runs makes spans."""
    with suppressed():
        lift_after_fork()
        assert is_instrumentation_enabled()
        assert get_current() == Context()


def test_a_span_of_mine_is_made_and_current() -> None:
    """I start a span myself in a timer of my worker's: it is made, and is the parent of others."""
    recorder = Recorder()
    tracer = tracer_provider(recorder).get_tracer("mine")
    with suppressed(), tracer.start_as_current_span("outer"):
        tracer.start_span("inner").end()
    outer, inner = recorder.spans
    assert parent_id(inner) == context_of(outer).span_id


def test_another_context_is_made_silent() -> None:
    """The poll for my chord has my trace, and its commands are none of its spans."""
    quiet = suppressed_in(Context({"mine": 1}))
    token = attach(quiet)
    assert not is_instrumentation_enabled()
    assert quiet["mine"] == 1
    detach(token)


class OneTick(Scheduler):
    """Notes at its only tick whether libraries would make spans."""

    ticks: list[bool] = []  # noqa: RUF012  # one test's

    def tick(self, *_: Any, **__: Any) -> float:
        self.ticks.append(is_instrumentation_enabled())
        raise SystemExit


def test_a_tick_of_beat_makes_no_spans(app: Celery) -> None:
    """My schedule is in a database that I instrument: reading it at each tick is no trace."""
    heard: list[bool] = []

    def receive(**_: object) -> None:
        heard.append(is_instrumentation_enabled())

    signals.beat_init.connect(receive, weak=False)
    traffic = BeatTraffic()
    traffic.install()
    try:
        Service(app, scheduler_cls=OneTick).start()
    finally:
        traffic.remove()
        signals.beat_init.disconnect(receive)
    assert (OneTick.ticks, heard) == ([False], [True])
    assert "send" not in vars(signals.beat_init)


def test_receivers_of_a_workers_signals_make_spans() -> None:
    """My receiver of `task_received` uses the library: that is a trace of mine."""
    heard: list[bool] = []

    def receive(**_: object) -> None:
        heard.append(is_instrumentation_enabled())

    signals.task_received.connect(receive, weak=False)
    traffic = WorkerTraffic()
    traffic.install()
    try:
        with suppressed():
            signals.task_received.send(sender=None, request=None)
    finally:
        traffic.remove()
        signals.task_received.disconnect(receive)
    assert heard == [True]
    assert "send" not in vars(signals.task_received)
