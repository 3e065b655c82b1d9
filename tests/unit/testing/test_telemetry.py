"""What a test of an app reads of its eager tasks, and what a failed assertion says."""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, get_args

import pytest
import sentry_sdk
from celery import Celery, Task, group
from celery.exceptions import Ignore
from opentelemetry import metrics, trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

import taskobs
from taskobs.testing import (
    AmbiguousError,
    NotRecordedError,
    NotSettledError,
    Telemetry,
    UnexpectedTelemetryError,
)
from taskobs.testing.receiver import Receiver
from taskobs.testing.records import OutcomeName
from taskobs.testing.sources.process import TestProcess
from tests.support.recording import global_provider
from tests.support.sentry import Kept, clear_isolation_scope, user_init
from tests.unit.session.test_session import process_state

tracer = trace.get_tracer("shop")
orders = metrics.get_meter("shop").create_counter("shop.orders")
waits = metrics.get_meter("shop").create_histogram("shop.bank.wait", "s")
log = logging.getLogger("shop")

Recorded = Callable[[], AbstractContextManager[Telemetry]]
PATIENCE = 60.0


@pytest.fixture(scope="module")
def recorded() -> Recorded:
    """Give what the fixture does for each test, so that a test here may do it twice."""
    process = TestProcess()

    @contextmanager
    def one_test() -> Generator[Telemetry]:
        with process.recorded(timeout=PATIENCE) as telemetry:
            yield telemetry

    return one_test


@pytest.fixture
def telemetry(recorded: Recorded) -> Generator[Telemetry]:
    """Give the telemetry of one test."""
    with recorded() as telemetry:
        yield telemetry


@pytest.fixture
def charge(app: Celery) -> Task[Any, Any]:
    """Give a task that asks the bank, which declines negative amounts."""

    @app.task(name="shop.charge")
    def charge(amount: int) -> int:
        orders.add(1, {"kind": "card"})
        waits.record(amount)
        with tracer.start_as_current_span("bank", attributes={"bank.amount": amount}):
            log.warning("charging %d", amount)
            if amount < 0:
                raise ValueError("the bank declined the card")
        return amount

    return charge


@pytest.fixture
def add(app: Celery) -> Task[Any, Any]:
    """Give a task that leaves the module's tracer alone: that keeps to the first real provider."""

    @app.task(name="shop.add")
    def add(x: int, y: int) -> int:
        return x + y

    return add


def test_a_run_is_a_plain_record(telemetry: Telemetry, charge: Task[Any, Any]) -> None:
    """I apply a task, and read how its run ended."""
    result = charge.apply(args=(-1,))
    run = telemetry.run("shop.charge")
    assert run.outcome == "failed"
    assert (run.task_id, run.attempt, run.eager, run.expected) == (result.id, 1, True, False)
    assert run.exception is not None
    assert str(run.exception) == "ValueError: the bank declined the card"
    assert 'raise ValueError("the bank declined the card")' in run.exception.stacktrace
    assert run.duration > 0
    assert telemetry.runs() == (run,)


def test_a_trace_has_what_belongs_together(telemetry: Telemetry, charge: Task[Any, Any]) -> None:
    """I ask for the trace of a result, and get its spans, its event and its log lines."""
    charge.apply(args=(1,))
    result = charge.apply(args=(-1,))
    found = telemetry.trace_of(result)
    assert found.tree == "run shop.charge\n  bank"
    assert [run.task_id for run in found.runs] == [result.id]
    [event] = found.events
    assert telemetry.run(outcome="failed").event_id == event.event_id
    assert [one.message for one in found.logs if one.logger == "shop"] == ["charging -1"]
    assert telemetry.trace_of(event) == found
    assert telemetry.trace_of(found.trace_id) == found


def test_an_event_is_what_sentry_would_get(telemetry: Telemetry, charge: Task[Any, Any]) -> None:
    """I read the event of a failure: exception, task, tags."""
    result = charge.apply(args=(-1,))
    event = telemetry.event("shop.charge")
    assert event is not telemetry.event(exception="ValueError")
    assert event == telemetry.event(exception="ValueError")
    assert str(event.exception) == "ValueError: the bank declined the card"
    assert (event.task, event.task_id, event.level) == ("shop.charge", result.id, "error")
    assert event.tags["celery.outcome"] == "failed"
    assert event.trace_id == telemetry.run().trace_id


def test_log_records_have_the_ids_of_their_task(
    telemetry: Telemetry, charge: Task[Any, Any]
) -> None:
    """I find the line that a task has logged, with its task and its span."""
    result = charge.apply(args=(7,))
    line = telemetry.log("charging 7")
    assert (line.level, line.logger) == ("WARNING", "shop")
    assert (line.task, line.task_id) == ("shop.charge", result.id)
    assert line.span_id == telemetry.span("bank").span_id


def test_metrics_are_those_of_the_test_alone(recorded: Recorded, charge: Task[Any, Any]) -> None:
    """I count what a task has measured, and nothing of the test before."""
    for amounts in ([1, 2, 3], [5]):
        with recorded() as telemetry:
            for amount in amounts:
                charge.apply(args=(amount,))
            counted = telemetry.metric("shop.orders", {"kind": "card"})
            assert counted.value == len(amounts)
            charge.apply(args=(10,))
            measured = telemetry.metric("shop.bank.wait")
            assert (measured.kind, measured.unit) == ("histogram", "s")
            assert (measured.value, measured.count) == (sum(amounts) + 10, len(amounts) + 1)


def test_tests_see_nothing_of_each_other(recorded: Recorded, charge: Task[Any, Any]) -> None:
    """My second test begins with nothing, though the modules of my app keep their tracers."""
    for amount in (-1, 1):
        with recorded() as telemetry:
            assert (telemetry.spans, telemetry.events, telemetry.logs) == ((), (), ())
            charge.apply(args=(amount,))
            assert telemetry.trace_of(telemetry.run()).tree == "run shop.charge\n  bank"
    charge.apply(args=(2,))  # after the tests, for nobody
    assert len(telemetry.runs()) == 1


def test_the_process_is_left_as_it_was(recorded: Recorded, charge: Task[Any, Any]) -> None:
    """Tests without the fixture see nothing of it."""
    before = process_state()
    with recorded():
        charge.apply(args=(-1,))
        assert process_state() != before
    assert process_state() == before
    assert not sentry_sdk.get_client().is_active()
    with tracer.start_as_current_span("later") as span:
        assert not span.is_recording()


# What a failure says.


def test_a_missing_run_lists_the_runs(telemetry: Telemetry, charge: Task[Any, Any]) -> None:
    """I mistype a task, and read what there was, and what I may have meant."""
    charge.apply(args=(-1,), task_id="id-1")
    with pytest.raises(NotRecordedError) as failure:
        telemetry.run("shop.chrage")
    error = "ValueError: the bank declined the card"
    assert str(failure.value).splitlines() == [
        "there is no run shop.chrage. Did you mean 'shop.charge'?",
        "runs:",
        f"  run shop.charge: failed, attempt 1, eager, {error}, 1 event, id id-1",
        "publishes: none",
        "events:",
        f"  event {error} in shop.charge, id id-1",
    ]


def test_criteria_are_part_of_the_message(telemetry: Telemetry, charge: Task[Any, Any]) -> None:
    """I ask for another attempt than there was, and read both."""
    charge.apply(args=(1,))
    with pytest.raises(NotRecordedError, match=r"there is no run shop\.charge with attempt=2\."):
        telemetry.run("shop.charge", attempt=2)
    with pytest.raises(NotRecordedError, match=r"\n  run shop\.charge: succeeded, attempt 1"):
        telemetry.run("shop.charge", outcome="failed")


def test_what_no_record_can_have_is_refused(telemetry: Telemetry, charge: Task[Any, Any]) -> None:
    """I mistype an outcome, or give the task for its name: `not runs(...)` does not pass by it."""
    charge.apply(args=(-1,))
    wrong: Any = "fail"
    for ask in (telemetry.run, telemetry.runs):
        with pytest.raises(ValueError, match=r"no outcome 'fail'\. Did you mean 'failed'\?.* lost"):
            ask("shop.charge", outcome=wrong)
    task: Any = charge
    for asked in (telemetry.run, telemetry.runs, telemetry.publish, telemetry.publishes):
        with pytest.raises(TypeError, match=r"name of a task is needed, .*: write 'shop\.charge'"):
            asked(task)
    number: Any = 1
    with pytest.raises(TypeError, match=r"name of a task is needed, not int$"):
        telemetry.event(number)


def test_the_outcomes_to_ask_for_are_those_of_runs() -> None:
    """I ask for any outcome that a run can have, and none is refused."""
    assert get_args(OutcomeName) == tuple(one.value for one in taskobs.Outcome)


def test_several_are_not_one(telemetry: Telemetry, charge: Task[Any, Any]) -> None:
    """I ask for the run of a task that ran twice, and am told how to say which."""
    charge.apply(args=(1,), task_id="id-1")
    charge.apply(args=(-1,), task_id="id-2")
    with pytest.raises(AmbiguousError) as failure:
        telemetry.run("shop.charge")
    lines = str(failure.value).splitlines()
    assert lines[0] == "there is not one run shop.charge, but 2:"
    assert [line.rpartition(" ")[2] for line in lines[1:3]] == ["id-1", "id-2"]
    assert lines[3] == "Say which by outcome, attempt or task_id, or ask for all."
    assert telemetry.run("shop.charge", outcome="failed").task_id == "id-2"
    assert telemetry.run(task_id="id-1").outcome == "succeeded"


ASKS: dict[str, Callable[[Telemetry], object]] = {
    "there is no log with text='refund'.\nlogs:\n  log WARNING": lambda t: t.log("refund"),
    "there is no metric refunds.\nmetrics:\n  metric shop.": lambda t: t.metric("refunds"),
    "there is no span refund.\nspans:\n  span run shop.charge": lambda t: t.span("refund"),
    "there is no event.\nruns:\n": lambda t: t.event(),
    "there is no publish shop.charge.\nruns:\n": lambda t: t.publish("shop.charge"),
    "there is no trace of 0af7\nruns:\n": lambda t: t.trace_of("0af7"),
}


@pytest.mark.parametrize("says", ASKS)
def test_each_kind_lists_what_there_is(
    telemetry: Telemetry, charge: Task[Any, Any], says: str
) -> None:
    """I ask for what is not there, and read what is."""
    charge.apply(args=(1,))
    with pytest.raises(NotRecordedError) as failure:
        ASKS[says](telemetry)
    assert str(failure.value).startswith(says)


def test_what_waits_for_a_worker_is_said(
    telemetry: Telemetry, app: Celery, charge: Task[Any, Any]
) -> None:
    """I forget the worker: the message says that the task was published, at once."""
    result = charge.delay(1)
    published = telemetry.publish("shop.charge")
    assert (published.task_id, published.queue) == (result.id, "celery")
    assert telemetry.runs() == ()
    with pytest.raises(NotRecordedError, match=r"published, and not run within 60 s:\n  shop\."):
        telemetry.run("shop.charge")
    with pytest.raises(NotSettledError, match=r"not all tasks have ended within 0\.01 s"):
        telemetry.wait(0.01)
    app.send_task("shop.later", countdown=3_600)
    assert len(telemetry.publishes()) == 2


# What tasks do.


def test_retries_are_runs(telemetry: Telemetry, app: Celery) -> None:
    """I count the attempts of a task that retries, and see one trace."""

    @app.task(name="shop.book", bind=True, max_retries=2)
    def book(self: Task[Any, Any]) -> None:
        if self.request.retries < 2:
            raise self.retry(exc=ConnectionError("busy"), countdown=0)

    book.apply()
    runs = telemetry.runs("shop.book")
    assert sorted((run.attempt, run.outcome) for run in runs) == [
        (1, "retried"),
        (2, "retried"),
        (3, "succeeded"),
    ]
    first = telemetry.run("shop.book", attempt=1)
    assert str(first.exception) == "ConnectionError: busy"
    assert telemetry.events == ()


def test_expected_and_ignored_runs_are_told_apart(telemetry: Telemetry, app: Celery) -> None:
    """I see that an exception is one that the task lists, and why a run was ignored."""

    @app.task(name="shop.find", throws=(KeyError,))
    def find() -> None:
        raise KeyError("no such order")

    @app.task(name="shop.skip")
    def skip() -> None:
        raise Ignore("closed today")

    find.apply()
    skip.apply()
    found = telemetry.run("shop.find")
    assert (found.outcome, found.expected) == ("failed", True)
    skipped = telemetry.run("shop.skip")
    assert (skipped.outcome, skipped.reason) == ("ignored", "closed today")
    assert telemetry.events == ()


def test_always_eager_canvases_run(telemetry: Telemetry, app: Celery) -> None:
    """I set `task_always_eager`, and the tasks of a group are runs, also the inner ones."""
    app.conf.task_always_eager = True

    @app.task(name="shop.add")
    def add(x: int, y: int) -> int:
        return x + y

    group(add.s(1, 1), add.s(2, 2))()
    add.starmap([(1, 2)]).apply_async()
    assert len(telemetry.runs("shop.add")) == 3
    assert telemetry.run("celery.starmap").inner_task == "shop.add"


def test_threads_of_the_test_are_waited_for(telemetry: Telemetry, app: Celery) -> None:
    """A run that another thread has begun is there when I ask, as that is waited for."""
    begun, go_on = threading.Event(), threading.Event()

    @app.task(name="shop.slow")
    def slow() -> None:
        begun.set()
        assert go_on.wait(30)

    thread = threading.Thread(target=slow.apply)
    thread.start()
    assert begun.wait(30)
    threading.Timer(0.05, go_on.set).start()
    assert telemetry.run("shop.slow").outcome == "succeeded"
    thread.join()


def test_a_task_that_asks_does_not_wait_for_itself(telemetry: Telemetry, app: Celery) -> None:
    """An eager task reads what there is, without waiting for its own end."""

    @app.task(name="shop.asks")
    def asks() -> int:
        telemetry.wait(0)
        return len(telemetry.runs())

    assert asks.apply().get() == 0


# Strict tests.


def test_what_was_not_asked_for_fails_a_strict_test(
    telemetry: Telemetry, charge: Task[Any, Any]
) -> None:
    """An event that I did not expect fails my test; one that I have asked for does not."""
    charge.apply(args=(1,))
    telemetry.check_all_asked_for()
    charge.apply(args=(-1,), task_id="id-1")
    with pytest.raises(UnexpectedTelemetryError) as failure:
        telemetry.check_all_asked_for()
    assert str(failure.value).splitlines()[:2] == [
        "the test did not ask for:",
        "  event ValueError: the bank declined the card in shop.charge, id id-1",
    ]
    assert telemetry.run("shop.charge", outcome="failed").event_id
    telemetry.check_all_asked_for()
    log.error("the till is open")
    with pytest.raises(UnexpectedTelemetryError, match="event the till is open outside of tasks"):
        telemetry.check_all_asked_for()
    assert len(telemetry.events) == 2
    telemetry.check_all_asked_for()


def test_a_run_that_is_not_sampled_is_named(telemetry: Telemetry, app: Celery) -> None:
    """I ask for the run of a task that I leave untraced, and read why it is not there."""

    @app.task(name="shop.beat")
    def beat() -> None:
        """Do nothing."""

    with taskobs.untraced():
        beat.apply()
    with pytest.raises(NotRecordedError, match=r"not sampled:\n  shop\.beat, id "):
        telemetry.run("shop.beat")


def test_clear_forgets(telemetry: Telemetry, charge: Task[Any, Any]) -> None:
    """I set my test up with tasks, and then begin to look."""
    charge.apply(args=(-1,))
    telemetry.clear()
    telemetry.check_all_asked_for()
    charge.apply(args=(1,))
    assert telemetry.run().outcome == "succeeded"
    assert repr(telemetry) == "<taskobs.testing.Telemetry: 1 runs, 2 spans, 0 events>"


# What the app has set up.


def test_the_settings_of_the_app_hold(
    recorded: Recorded, charge: Task[Any, Any], receiver: Receiver
) -> None:
    """My app calls init() with a collector and a DSN: rules and hooks hold, and nothing leaves."""
    session = taskobs.init(
        otlp_endpoint=receiver.endpoint,
        sentry_dsn=receiver.dsn,
        sample_rate=0.0,
        tasks={"shop.quiet": {"errors": False}},
        on_run=lambda run, span: span.set_attribute("team", run.task.partition(".")[0]),
        environment="test",
    )
    with session:
        session.begin(errors=True)
        apps_tracer = trace.get_tracer("of the app's provider")
        for amount in (-1, -2):
            with recorded() as telemetry:
                with apps_tracer.start_as_current_span("order"):
                    charge.apply(args=(amount,))
                run = telemetry.run()
                assert run.attributes["team"] == "shop"
                assert telemetry.trace_of(run).tree == "order\n  run shop.charge\n    bank"
                assert telemetry.event().data["environment"] == "test"
                assert taskobs.init() is not session
            assert taskobs.init() is session
        assert session.flush(30)
        assert receiver.requests == ()
        log.error("after the tests")
        assert session.flush(30)
    [event] = receiver.events
    assert event.data["logentry"]


def test_the_tracers_of_the_app_record_again_after_a_test(
    recorded: Recorded, receiver: Receiver
) -> None:
    """A tracer that my app keeps records for the test, and before and after it as ever."""
    with taskobs.init(otlp_endpoint=receiver.endpoint) as session:
        session.begin()
        apps_tracer = trace.get_tracer("of the app's provider")
        with recorded() as telemetry, apps_tracer.start_as_current_span("inside"):
            pass
        with recorded():
            pass
        with apps_tracer.start_as_current_span("outside"):
            pass
        assert session.flush(30)
    assert [span.name for span in telemetry.spans] == ["inside"]
    assert [span.name for span in receiver.spans] == ["outside"]


def test_an_app_that_is_imported_in_the_test_has_its_settings(
    recorded: Recorded, charge: Task[Any, Any], receiver: Receiver
) -> None:
    """My app calls init() for the first time in a test: its rules hold at once, and afterwards."""
    with recorded() as telemetry:
        charge.apply(args=(-1,))
        taskobs.init(
            otlp_endpoint=receiver.endpoint,
            tasks={"shop.charge": {"errors": False}},
        )
        taskobs.init()
        charge.apply(args=(-2,))
        assert len(telemetry.runs("shop.charge")) == 2
        assert len(telemetry.events) == 1
        assert telemetry.trace_of(telemetry.runs()[1]).tree == "run shop.charge\n  bank"
        session = taskobs.init()
    with taskobs.init() as apps:
        assert apps is not session
        charge.apply(args=(1,))
        assert apps.flush(30)
    assert [span.name for span in receiver.spans] == ["bank", "run shop.charge"]


@pytest.mark.parametrize("variable", ["TASKOBS_ENABLED=0", "OTEL_SDK_DISABLED=true"])
def test_what_is_switched_off_for_tests_is_recorded(
    charge: Task[Any, Any], monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    """My tests run with telemetry switched off, and the fixture records all the same."""
    monkeypatch.setenv(*variable.split("="))
    with taskobs.init(), TestProcess().recorded() as telemetry:
        charge.apply(args=(-1,))
        assert telemetry.trace_of(telemetry.event()).names[0] == "run shop.charge"


def test_the_provider_of_the_app_keeps_its_exporters(
    recorded: Recorded, add: Task[Any, Any]
) -> None:
    """My app has a TracerProvider: its spans are in the test, and not in its exporters."""
    exported = InMemorySpanExporter()
    provider = TracerProvider(resource=Resource({"service.name": "mine"}))
    provider.add_span_processor(SimpleSpanProcessor(exported))
    with global_provider(provider):
        for _ in range(2):
            with recorded() as telemetry:
                add.apply(args=(1, 2))
                run = telemetry.run()
                assert run.span.resource["service.name"] == "mine"
        assert exported.get_finished_spans() == ()
        with provider.get_tracer("shop").start_as_current_span("after"):
            pass
        assert [span.name for span in exported.get_finished_spans()] == ["after"]


def test_instruments_of_the_app_go_where_it_says(
    recorded: Recorded, charge: Task[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """My app has a MeterProvider: what tasks measure is there, and not in the test."""
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader])
    monkeypatch.setattr(f"{__name__}.orders", provider.get_meter("shop").create_counter("orders"))
    with recorded() as telemetry:
        charge.apply(args=(1,))
        assert [one.name for one in telemetry.metrics] == ["shop.bank.wait"]
    assert reader.get_metrics_data()
    provider.shutdown()


def test_what_the_sdk_measures_of_itself_is_left_out(
    charge: Task[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """My app has the SDK count its spans: a test has what my tasks measure, and no more."""
    monkeypatch.setenv("OTEL_PYTHON_SDK_INTERNAL_METRICS_ENABLED", "true")
    provider = TracerProvider(shutdown_on_exit=False)
    with TestProcess().recorded(timeout=PATIENCE) as telemetry:
        provider.get_tracer("shop").start_span("of the app").end()
        charge.apply(args=(1,))
        assert {one.name for one in telemetry.metrics} == {"shop.orders", "shop.bank.wait"}


def test_no_socket_is_made(
    recorded: Recorded, charge: Task[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """My tests run without a network: nothing so much as asks for one."""
    made: list[object] = []
    make = socket.socket.__init__

    def noted(self: socket.socket, *args: Any, **named: Any) -> None:
        made.append(args)
        make(self, *args, **named)

    with taskobs.init(otlp_endpoint="http://127.0.0.1:9", sentry_dsn="http://key@127.0.0.1:9/1"):
        monkeypatch.setattr(socket.socket, "__init__", noted)
        with recorded() as telemetry:
            charge.apply(args=(-1,))
            charge.delay(1)
            assert telemetry.event()
        monkeypatch.undo()
    assert made == []


def test_what_another_process_sends_is_of_the_test() -> None:
    """A worker of all tests has one address: each test sees what belongs to its own traces."""
    process, worker = TestProcess(), TracerProvider()
    seen: list[list[str]] = []
    earlier = Context()
    for test in ("first", "second"):
        with process.recorded(timeout=PATIENCE) as telemetry:
            given = telemetry.worker_environment("127.0.0.2")
            assert given["SENTRY_DSN"].partition("@")[2].startswith("127.0.0.2:")
            if not seen:
                endpoint = f"{given['OTEL_EXPORTER_OTLP_ENDPOINT']}/v1/traces"
                exporter = OTLPSpanExporter(endpoint=endpoint)
                worker.add_span_processor(SimpleSpanProcessor(exporter))
            tracer = worker.get_tracer("shop")
            with tracer.start_as_current_span("of the first trace", context=earlier) as span:
                earlier = trace.set_span_in_context(span) if not seen else earlier
            tracer.start_span(test, context=Context()).end()
            assert telemetry.span(test).name == test
            with pytest.raises(ValueError, match=r"listens on 127\.0\.0\.2, not on 127\.0\.0\.1"):
                telemetry.worker_environment()
            seen.append(sorted(one.name for one in telemetry.spans))
    process.close()
    worker.shutdown()
    assert seen == [["first", "of the first trace"], ["second"]]


@pytest.mark.parametrize("provider", [TracerProvider(), trace.NoOpTracerProvider()])
def test_a_provider_that_exports_nothing_is_no_obstacle(
    recorded: Recorded, add: Task[Any, Any], provider: trace.TracerProvider
) -> None:
    """My app sets a provider that has no exporter in tests, or one that makes no spans."""
    trace.set_tracer_provider(provider)
    with global_provider():
        for _ in range(2):
            with recorded() as telemetry:
                add.apply(args=(1, 2))
                assert telemetry.run().outcome == "succeeded"
            assert trace.get_tracer_provider() is provider
            with provider.get_tracer("shop").start_as_current_span("after"):
                assert len(telemetry.spans) == 1


@pytest.mark.parametrize("when", ["before", "in the test"])
def test_the_client_of_the_app_sends_to_the_test(
    recorded: Recorded, charge: Task[Any, Any], when: str
) -> None:
    """My app has called sentry_sdk.init(): events are in the test, and its server gets none."""
    kept = user_init(release="1.0") if when == "before" else Kept({"dsn": None})
    try:
        with recorded() as telemetry:
            if when != "before":
                kept = user_init(release="1.0")
            charge.apply(args=(-1,))
            assert telemetry.event("shop.charge").data["release"] == "1.0"
        assert kept.events == []
        sentry_sdk.capture_message("after")
        assert len(kept.events) == 1
    finally:
        sentry_sdk.get_global_scope().set_client(None)
        clear_isolation_scope()


def test_a_client_without_a_dsn_counts(recorded: Recorded, charge: Task[Any, Any]) -> None:
    """My app's DSN is unset in tests, so that its client sends nothing: events are there."""
    sentry_sdk.init()
    try:
        with recorded() as telemetry:
            charge.apply(args=(-1,))
            assert telemetry.event("shop.charge").exception
    finally:
        sentry_sdk.get_global_scope().set_client(None)
        clear_isolation_scope()
