# Some of what these tests look at has no public name.
# pyright: reportPrivateUsage=false
from __future__ import annotations

from collections.abc import Generator
from typing import Any

import pytest
from celery import Celery, signals
from opentelemetry.instrumentation.celery import CeleryInstrumentor
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

import taskobs
from taskobs import TaskInstrumentor
from tests.support.recording import Recorder, attribute, tracer_provider


def stock() -> CeleryInstrumentor:
    """Give what `CeleryInstrumentor()` gives: it has no types."""
    made: CeleryInstrumentor = CeleryInstrumentor()  # type: ignore[no-untyped-call]
    return made


@pytest.fixture(autouse=True)
def none_instrumented() -> Generator[None]:
    """Begin and end with nobody instrumenting Celery."""
    yield
    for instrumentor in (TaskInstrumentor(), stock()):
        if instrumentor.is_instrumented_by_opentelemetry:
            instrumentor.uninstrument()
    CeleryInstrumentor._instance = None


def add(x: int, y: int) -> int:
    return x + y


def run_one(app: Celery) -> None:
    if "add" not in app.tasks:
        app.task(name="add")(add)
    app.tasks["add"].apply((1, 2))


def test_it_is_used_as_the_stock_one(app: Celery) -> None:
    """I can write TaskInstrumentor where I wrote CeleryInstrumentor; names and scope are kept."""
    recorder, reader = Recorder(), InMemoryMetricReader()
    meters = MeterProvider([reader], shutdown_on_exit=False)
    TaskInstrumentor().instrument(tracer_provider=tracer_provider(recorder), meter_provider=meters)
    run_one(app)
    TaskInstrumentor().uninstrument()
    run_one(app)
    scope = recorder.one("run add").instrumentation_scope
    assert scope is not None
    assert scope.name == "opentelemetry.instrumentation.celery"
    data = reader.get_metrics_data()
    assert data is not None
    (told,) = data.resource_metrics[0].scope_metrics
    assert told.scope.name == "opentelemetry.instrumentation.celery"
    assert [metric.name for metric in told.metrics] == ["flower.task.runtime.seconds"]
    (point,) = told.metrics[0].data.data_points
    assert dict(point.attributes or {})["task"] == "add"
    assert getattr(point, "count", None) == 1
    meters.shutdown()


def test_an_active_stock_one_steps_back_and_returns(app: Celery) -> None:
    """If CeleryInstrumentor was active, it rests meanwhile, and works again afterwards."""
    theirs, ours = Recorder(), Recorder()
    former = stock()
    former.instrument(tracer_provider=tracer_provider(theirs))
    TaskInstrumentor().instrument(tracer_provider=tracer_provider(ours))
    run_one(app)
    assert (theirs.names, ours.names) == ([], ["run add"])
    TaskInstrumentor().uninstrument()
    assert stock() is former
    run_one(app)
    assert (theirs.names, ours.names) == (["run/add"], ["run add"])


def test_a_stock_one_that_comes_later_finds_it_in_place(app: Celery) -> None:
    """A later `CeleryInstrumentor().instrument()` does not make every span twice."""
    theirs, ours = Recorder(), Recorder()
    TaskInstrumentor().instrument(tracer_provider=tracer_provider(ours))
    stock().instrument(tracer_provider=tracer_provider(theirs))
    run_one(app)
    assert (theirs.names, ours.names) == ([], ["run add"])
    assert isinstance(stock(), TaskInstrumentor)


def test_after_uninstrument_the_stock_one_is_the_stock_one() -> None:
    """After `uninstrument()`, CeleryInstrumentor is its own again, and nothing is connected."""
    before = len(signals.task_prerun.receivers or ())
    TaskInstrumentor().instrument()
    TaskInstrumentor().uninstrument()
    assert type(stock()) is CeleryInstrumentor
    assert len(signals.task_prerun.receivers or ()) == before


def test_one_made_before_but_instrumented_after_does_not_double(app: Celery) -> None:
    """A CeleryInstrumentor object that I made early and start late makes nothing twice."""
    theirs, ours = Recorder(), Recorder()
    early = stock()
    TaskInstrumentor().instrument(tracer_provider=tracer_provider(ours))
    early.instrument(tracer_provider=tracer_provider(theirs))
    run_one(app)
    assert (theirs.names, ours.names) == ([], ["run add"])
    TaskInstrumentor().uninstrument()
    assert stock() is early
    assert not early.is_instrumented_by_opentelemetry


def test_instrumented_twice_is_once(app: Celery) -> None:
    """Two calls of `instrument()` are one."""
    recorder = Recorder()
    for _ in range(2):
        TaskInstrumentor().instrument(tracer_provider=tracer_provider(recorder))
    run_one(app)
    assert recorder.names == ["run add"]


def test_it_works_with_init(app: Celery) -> None:
    """If it is in place, `init()` uses it, and `close()` leaves it in place."""
    recorder = Recorder()
    TaskInstrumentor().instrument(tracer_provider=tracer_provider(recorder))
    with taskobs.init(otlp_endpoint="http://127.0.0.1:9", shutdown_timeout=0.1, strict=True):
        run_one(app)
    run_one(app)
    assert recorder.names == ["run add"] * 2


def test_its_options_reach_the_spans(app: Celery) -> None:
    """`stock_attributes=False` leaves the stock attributes out."""
    recorder = Recorder()
    options: dict[str, Any] = {"stock_attributes": False}
    TaskInstrumentor().instrument(tracer_provider=tracer_provider(recorder), **options)
    run_one(app)
    assert attribute(recorder.one("run add"), "celery.action") is None
