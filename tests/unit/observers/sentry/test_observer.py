"""What a run sends to Sentry."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import sentry_sdk
from billiard.exceptions import SoftTimeLimitExceeded
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from sentry_sdk.integrations.logging import LoggingIntegration

from taskobs.model import Outcome
from taskobs.observers.sentry.event_rule import EventRule
from taskobs.observers.sentry.observer import SentryObserver
from taskobs.sentry.pipeline import SentryPipeline
from tests.support.sentry import (
    SPAN_ID,
    TRACE_ID,
    Kept,
    Settings,
    address,
    clear_isolation_scope,
    fail,
    make_run,
    raised,
    user_init,
)

Start = Callable[..., tuple[Kept, SentryObserver]]


@pytest.fixture
def start() -> Iterator[Start]:
    """Start a pipeline over a user-made client, and undo both afterwards."""
    pipelines: list[SentryPipeline] = []

    def begin(*, send_arguments: bool = False, **options: Any) -> tuple[Kept, SentryObserver]:
        kept = user_init(**options)
        pipelines.append(SentryPipeline.start(Settings(send_arguments=send_arguments)))
        return kept, SentryObserver(pipelines[0], EventRule(send_arguments=send_arguments))

    yield begin
    for pipeline in pipelines:
        pipeline.close(1.0)
    sentry_sdk.get_global_scope().set_client(None)
    clear_isolation_scope()


def variables(event: dict[str, Any]) -> list[dict[str, Any]]:
    parts: list[dict[str, Any]] = [event.get(part) or {} for part in ("exception", "threads")]
    rows: list[dict[str, Any]] = [row for part in parts for row in part.get("values", [])]
    stacks: list[dict[str, Any]] = [row["stacktrace"] for row in rows if row.get("stacktrace")]
    return [frame["vars"] for stack in stacks for frame in stack["frames"] if "vars" in frame]


def test_a_failed_run_is_one_event_with_its_tags_and_context(start: Start) -> None:
    """A failure arrives once, and says which task, which attempt, which queue and which worker."""
    kept, observer = start()
    run = make_run(outcome=Outcome.FAILED)

    fail(observer, run)

    (event,) = kept.events
    assert event["event_id"] == run.event_id
    assert event["level"] == "error"
    assert event["transaction"] == "shop.pay"
    assert event["transaction_info"] == {"source": "task"}
    assert (
        event["exception"]["values"][-1]["mechanism"].items()
        >= {
            "type": "celery",
            "handled": False,
        }.items()
    )
    assert event["tags"] == {
        "celery.task": "shop.pay",
        "celery.task_name": "shop.pay",
        "celery.task_id": "id-1",
        "celery_task_id": "id-1",
        "celery.queue": "orders",
        "celery.attempt": 2,
        "celery.root_id": "root-1",
        "celery.hostname": "celery@w1",
        "celery.outcome": "failed",
    }
    assert event["contexts"]["celery"] == {
        "parent_id": "parent-1",
        "routing_key": "orders.eu",
        "queue_latency": 0.25,
        "redelivered": False,
        "eager": False,
    }


def test_a_run_that_succeeds_sends_nothing(start: Start) -> None:
    """No event without a failure."""
    kept, observer = start()
    with observer.run(make_run()):
        pass
    assert kept.events == []


def test_a_lost_run_says_so(start: Start) -> None:
    """The worker's parent reports a child that died with the same tags as any other failure."""
    kept, observer = start()
    fail(observer, make_run(outcome=Outcome.LOST))
    assert kept.events[0]["tags"]["celery.outcome"] == "lost"


def test_a_failure_reported_outside_of_its_run_has_a_scope_of_its_own(start: Start) -> None:
    """Breadcrumbs of whatever the process did before stay out of the event."""
    kept, observer = start()
    sentry_sdk.add_breadcrumb(message="of something else")
    run = make_run(exception=raised(ValueError("late")))

    observer.failed(run)

    (event,) = kept.events
    assert event["tags"]["celery.task_id"] == "id-1"
    assert not event["breadcrumbs"]["values"]


def test_the_event_carries_the_run_spans_ids(start: Start) -> None:
    """Sentry links the error to the trace, also when the current span is another one."""
    kept, observer = start()
    fail(observer, make_run(span=address()))
    context = kept.events[0]["contexts"]["trace"]
    assert (context["trace_id"], context["span_id"]) == (TRACE_ID, SPAN_ID)
    assert context["op"] == "queue.task.celery"


def test_the_run_span_wins_over_sentrys_own_tracing(start: Start) -> None:
    """With Sentry's tracing on as well, the error still leads to the OpenTelemetry trace."""
    kept, observer = start(traces_sample_rate=1.0)
    run = make_run(span=address())
    begin = getattr(sentry_sdk, "start_transaction", sentry_sdk.start_span)
    with observer.run(run), begin(name="sentry's own"):
        run.exception = raised(ValueError("both"))
        observer.failed(run)
    assert kept.events[0]["contexts"]["trace"]["trace_id"] == TRACE_ID


def test_a_message_within_a_run_carries_its_tags_and_the_current_span(start: Start) -> None:
    """What a task sends to Sentry by itself can be found by task and by trace."""
    kept, observer = start()
    tracer = TracerProvider().get_tracer("test")
    with observer.run(make_run()), tracer.start_as_current_span("query") as span:
        sentry_sdk.capture_message("slow")
        logging.getLogger("shop").error("refused")
    context = span.get_span_context()
    assert [event["tags"]["celery.task_id"] for event in kept.events] == ["id-1", "id-1"]
    assert {event["contexts"]["trace"]["trace_id"] for event in kept.events} == {
        trace.format_trace_id(context.trace_id)
    }


def test_a_soft_time_limit_groups_by_task(start: Start) -> None:
    """Tasks that run out of time are one issue each, wherever they were interrupted."""
    kept, observer = start()
    fail(observer, make_run(), SoftTimeLimitExceeded())
    assert kept.events[0]["fingerprint"] == ["celery", "SoftTimeLimitExceeded", "shop.pay"]


def test_another_class_of_that_name_is_no_soft_time_limit(start: Start) -> None:
    """Only Celery's own exception is grouped so."""
    kept, observer = start()
    fail(observer, make_run(), type("SoftTimeLimitExceeded", (Exception,), {})())
    assert not kept.events[0].get("fingerprint")


@pytest.mark.parametrize("defaults", [True, False], ids=["with dedupe", "without"])
def test_an_exception_is_captured_once_in_a_run(start: Start, *, defaults: bool) -> None:
    """Telling the same failure twice sends one event."""
    kept, observer = start(default_integrations=defaults)
    run = make_run(exception=raised(ValueError("once")))
    with observer.run(run):
        observer.failed(run)
        first = run.event_id
        observer.failed(run)
    assert len(kept.events) == 1
    assert run.event_id == first


@pytest.mark.skipif(sentry_sdk.VERSION >= "3", reason="Sentry 3 marks the exception object itself")
def test_one_exception_object_may_fail_two_runs(start: Start) -> None:
    """A task that raises the same object each time is reported each time."""
    kept, observer = start()
    error = ValueError("shared")
    fail(observer, make_run(task_id="a"), error)
    fail(observer, make_run(task_id="b"), error)
    assert [event["tags"]["celery.task_id"] for event in kept.events] == ["a", "b"]


def _drop(_event: object, _hint: object) -> None:
    """Keep an event from being sent, as Sentry's `before_send` may."""


def test_a_dropped_event_leaves_no_id(start: Start) -> None:
    """An id that Sentry does not know is not shown in the trace."""
    kept, observer = start(before_send=_drop)
    run = make_run()
    fail(observer, run)
    assert (run.event_id, kept.events) == (None, [])


def test_an_eager_run_inside_a_run_keeps_its_own_tags(start: Start) -> None:
    """Nested runs are told apart, and the outer one is itself again afterwards."""
    kept, observer = start()
    with observer.run(make_run(task_id="outer")):
        fail(observer, make_run(task_id="inner", task="shop.inner", queue=None, eager=True))
        sentry_sdk.capture_message("after")
    inner, after = kept.events
    assert inner["tags"]["celery.task_id"] == "inner"
    assert "celery.queue" not in inner["tags"]
    assert inner["contexts"]["celery"]["eager"] is True
    assert after["tags"]["celery.task_id"] == "outer"


def test_nothing_of_a_run_outlives_it(start: Start) -> None:
    """Tags and breadcrumbs of a run are gone with it; those of the process are not cleared."""
    kept, observer = start()
    sentry_sdk.set_tag("deploy", "blue")
    with observer.run(make_run()):
        sentry_sdk.set_tag("customer", 7)
        sentry_sdk.add_breadcrumb(message="inside")
    sentry_sdk.capture_message("outside")
    (event,) = kept.events
    assert event["tags"] == {"deploy": "blue"}
    assert not event["breadcrumbs"]["values"]


def test_a_hundred_runs_on_threads_never_mix(start: Start) -> None:
    """Each event of a busy worker shows its own run's tags, breadcrumbs and message."""
    kept, observer = start()
    gate = threading.Barrier(100)

    def work(number: int) -> None:
        run = make_run(task_id=f"id-{number}")
        with observer.run(run):
            sentry_sdk.set_tag("number", number)
            sentry_sdk.add_breadcrumb(message=f"crumb {number}")
            gate.wait(90)
            run.exception = raised(ValueError(f"error {number}"))
            observer.failed(run)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(100)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(kept.events) == 100
    for event in kept.events:
        number = event["tags"]["number"]
        assert event["tags"]["celery.task_id"] == f"id-{number}"
        assert event["exception"]["values"][-1]["value"] == f"error {number}"
        assert [crumb["message"] for crumb in event["breadcrumbs"]["values"]] == [f"crumb {number}"]


def test_arguments_stay_out_by_default(start: Start) -> None:
    """Neither the context, nor a frame variable, nor one of Celery's breadcrumbs shows them."""
    kept, observer = start()
    run = make_run(args=["s3cret-argument"], kwargs={"card": "s3cret-argument"})
    with observer.run(run):
        logging.getLogger("celery.worker.strategy").warning(
            "Task %s received", "shop.pay", extra={"data": {"args": "s3cret-argument"}}
        )
        logging.getLogger("shop").warning("mine")
        run.exception = raised(ValueError("x"), argument="s3cret-argument")
        observer.failed(run)
        sentry_sdk.capture_exception(raised(KeyError("y"), argument="s3cret-argument"))
    assert len(kept.events) == 2
    assert not any(variables(event) for event in kept.events)
    assert "s3cret-argument" not in str([_without_source(event) for event in kept.events])
    assert [crumb["category"] for crumb in kept.events[0]["breadcrumbs"]["values"]] == ["shop"]


def test_a_stack_attached_to_a_message_shows_no_variables(start: Start) -> None:
    """With ``attach_stacktrace`` too, no argument leaves; the stack ends where the task called."""
    kept, observer = start(attach_stacktrace=True)
    with observer.run(make_run()):
        sentry_sdk.capture_message("where am I")
    (event,) = kept.events
    assert not variables(event)
    frames = event["threads"]["values"][0]["stacktrace"]["frames"]
    assert frames[-1]["function"] == "test_a_stack_attached_to_a_message_shows_no_variables"


def test_arguments_are_sent_scrubbed_when_asked_for(start: Start) -> None:
    """Arguments help to find the cause; passwords and tokens among them do not leave."""
    kept, observer = start(send_arguments=True)
    kwargs = {"order": 7, "password": "hunter2", "nested": [{"Api_Token": "t0k", "qty": 1}]}
    fail(observer, make_run(args=[1, "two"], kwargs=kwargs))
    context = kept.events[0]["contexts"]["celery"]
    assert context["args"] == [1, "two"]
    assert context["kwargs"] == {
        "order": 7,
        "password": "[Filtered]",
        "nested": [{"Api_Token": "[Filtered]", "qty": 1}],
    }
    assert "s3cret-argument" in str(variables(kept.events[0]))


def test_the_frames_of_celery_show_no_variables_even_then(start: Start) -> None:
    """Celery's own frames would repeat all arguments unscrubbed."""
    kept, observer = start(send_arguments=True)
    source = "def call(f):\n    kwargs = {'password': 'hunter2'}\n    f()\n"
    space: dict[str, Any] = {"__name__": "celery.app.trace"}
    exec(source, space)  # noqa: S102  # a frame that says it is Celery's

    def body() -> None:
        raise ValueError("inner")

    run = make_run()
    with observer.run(run):
        try:
            space["call"](body)
        except ValueError as error:
            run.exception = error
            observer.failed(run)
    frames = kept.events[0]["exception"]["values"][-1]["stacktrace"]["frames"]
    assert {frame["module"]: "vars" in frame for frame in frames} == {
        "celery.app.trace": False,
        __name__: True,
    }


class Nasty:
    """Refuses to be looked at."""

    def __repr__(self) -> str:
        raise RuntimeError("no")

    __str__ = __repr__

    def __getattribute__(self, name: str) -> Any:
        raise RuntimeError(name)


def hostile() -> list[object]:
    loop: list[object] = []
    loop.append(loop)
    return [
        "x" * 10_000_000,
        Nasty(),
        loop,
        {"deep": {"deep": {"deep": {"deep": {"deep": {"deep": 1}}}}}},
        list(range(1_000_000)),
        10**100_000,
        float("nan"),
        b"y" * 10_000_000,
        {Nasty(): 1, ("tuple", 1): 2, "k" * 10_000: 3},
    ]


@pytest.mark.parametrize("position", range(9))
def test_a_hostile_argument_neither_breaks_nor_slows(start: Start, position: int) -> None:
    """Whatever a task is given, its failure is reported at once and with a bounded event."""
    kept, observer = start(send_arguments=True)
    argument = hostile()[position]
    run = make_run(args=[argument, "last"], kwargs={"value": argument})
    with observer.run(run):
        run.exception = raised(ValueError("x"))
        began = time.thread_time()  # what others do meanwhile does not count
        observer.failed(run)
        took = time.thread_time() - began
    context = kept.events[0]["contexts"]["celery"]
    assert took < 1
    assert len(str(context)) < 60_000
    assert context["args"][1] == "last"


def test_all_arguments_together_are_bounded(start: Start) -> None:
    """Many arguments of fair size make no huge event either."""
    kept, observer = start(send_arguments=True)
    fail(observer, make_run(args=[["z" * 1000] * 50] * 50))
    assert len(str(kept.events[0]["contexts"]["celery"]["args"])) < 40_000


def test_arguments_are_not_looked_at_unless_something_is_captured(start: Start) -> None:
    """A run that succeeds pays nothing for its arguments."""
    _, observer = start(send_arguments=True)

    class Watched(dict[str, object]):
        seen = False

        def __iter__(self) -> Iterator[str]:
            self.seen = True
            return super().__iter__()

    watched = Watched(a=1)
    with observer.run(make_run(kwargs=watched)):
        pass
    assert not watched.seen


def test_without_a_client_a_run_is_left_alone() -> None:
    """No DSN and no ``sentry_sdk.init()``: no scope, no cost, no error."""
    pipeline = SentryPipeline.start(Settings())
    observer = SentryObserver(pipeline)
    scope = sentry_sdk.get_isolation_scope()
    run = make_run()
    try:
        with observer.run(run):
            assert sentry_sdk.get_isolation_scope() is scope
            run.exception = raised(ValueError("x"))
            observer.failed(run)
        assert run.event_id is None
    finally:
        pipeline.close(1.0)


def test_log_events_without_the_default_handlers_are_tagged(start: Start) -> None:
    """A user's own logging integration takes part like the default one."""
    kept, observer = start(integrations=[LoggingIntegration(event_level=logging.WARNING)])
    with observer.run(make_run()):
        logging.getLogger("shop").warning("low stock")
    assert kept.events[0]["tags"]["celery.task"] == "shop.pay"


def _without_source(event: dict[str, Any]) -> dict[str, Any]:
    """Leave out the lines of source around each frame, where this test names its secret."""
    copy = {**event}
    for value in copy["exception"]["values"]:
        for frame in value["stacktrace"]["frames"]:
            for key in ("pre_context", "context_line", "post_context"):
                frame.pop(key, None)
    return copy


def test_the_record_of_a_run_is_not_kept(start: Start) -> None:
    """After a run nothing of ours holds on to its arguments."""
    import gc
    import weakref

    _, observer = start()

    class Big:
        pass

    big = Big()
    watch = weakref.ref(big)
    run = make_run(args=[big])
    with observer.run(run):
        pass
    del big, run
    gc.collect()
    assert watch() is None
