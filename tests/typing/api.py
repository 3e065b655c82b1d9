"""Every public call with the types that callers rely on: for mypy and pyright, nothing runs it."""

from __future__ import annotations

import logging
from types import ModuleType

import flask
import loguru
import structlog
from celery import Celery
from opentelemetry.metrics import NoOpMeterProvider
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import Span
from typing_extensions import assert_type

import taskobs
from taskobs.testing import (
    AmbiguousError,
    Event,
    Log,
    Metric,
    NotRecordedError,
    NotSettledError,
    Raised,
    ReceivedSpan,
    TaskPublish,
    TaskRun,
    Telemetry,
    Trace,
    UnexpectedTelemetryError,
)


def sessions() -> None:
    """What ``init()`` takes and gives."""
    session = taskobs.init()
    assert_type(session, taskobs.Session)
    assert_type(session.flush(), bool)
    assert_type(session.flush(1.5), bool)
    assert_type(session.describe(), str)
    session.close()
    with taskobs.init(service_name="shop") as entered:
        assert_type(entered, taskobs.Session)


def settings() -> None:
    """Each setting, as the reference shows it."""
    taskobs.init(
        service_name="shop",
        otlp_endpoint="http://localhost:4318",
        otlp_protocol="http/protobuf",
        otlp_headers={"authorization": "secret"},
        sample_rate=0.1,
        keep=["failed", "lost", "slower than 5s"],
        sentry_dsn="https://key@sentry.example/1",
        resource={"service.namespace": "eu", "shards": [1, 2]},
        environment="production",
        release="1.0",
        send_arguments=False,
        tasks={
            "reports.*": {"sample_rate": 1.0},
            "heartbeat": {"sample_rate": 0, "errors": False},
            "imports.*": {"link": True, "send_arguments": True},
        },
        crons=True,
        crons_exclude=["hourly"],
        crons_options={"nightly": {"max_runtime": 30}},
        on_publish=note_publish,
        on_run=note_run,
        on_run_end=lambda run, span: span.set_attribute("shop.task", run.task),
        context_keys=["tenant"],
        instrument=["flask", "redis"],
        metrics_port=9808,
        metrics_address="0.0.0.0",  # noqa: S104  # as in a container
        metric_buckets={"celery.task.duration": [0.1, 1, 10]},
        stock_attributes=True,
        log_ids=True,
        logs="otlp",
        log_format="json",
        trace_url="https://jaeger.example/trace/{trace_id}",
        event_url="https://sentry.example/events/{event_id}",
        relay=True,
        relay_providers=True,
        relay_spool="/var/spool/taskobs",
        relay_spool_bytes=256 * 1024 * 1024,
        relay_spool_age=86_400.0,
        gc_freeze=True,
        shutdown_timeout=3.0,
        strict=False,
        enabled=True,
    )


def formatters() -> None:
    """A formatter for a handler of one's own."""
    logging.StreamHandler().setFormatter(taskobs.JsonFormatter())


def rules() -> None:
    """A rule by itself, and the block without traces, in both of its forms."""
    rule: taskobs.TaskRule = {"errors": False}
    taskobs.init(tasks={"heartbeat": rule, "polls.*": taskobs.TaskRule(sample_rate=0.01)})
    with taskobs.untraced():
        pass

    @taskobs.untraced()
    def poll(number: int) -> str:
        return str(number)

    assert_type(poll(1), str)


def note_publish(publish: taskobs.Publish, span: Span) -> None:
    """Is called with each publish."""
    hook: taskobs.PublishHook = note_publish
    assert_type(publish.task, str)
    assert_type(publish.queue, str | None)
    publish.headers["mine"] = "x"
    span.set_attribute("shop.queue", publish.queue or "")
    del hook


def note_run(run: taskobs.Run, span: Span) -> None:
    """Is called with each run."""
    hook: taskobs.RunHook = note_run
    assert_type(run.outcome, taskobs.Outcome | None)
    assert_type(run.attempt, int)
    span.set_attribute("shop.attempt", run.attempt)
    del hook


def errors() -> None:
    """What ``init()`` raises, and what can be asked of it."""
    try:
        taskobs.init(sample_rate=2)
    except taskobs.SettingError as error:
        assert_type(error.setting, str)
        assert_type(error.variable, str)
        assert_type(error.value, str)
        assert_type(error.problem, str)
        assert_type(error.fix, str)
        as_value_error: ValueError = error
        as_ours: taskobs.TaskobsError = error
        del as_value_error, as_ours
    except taskobs.MissingExtraError as error:
        assert_type(error.feature, str)
        assert_type(error.extra, str)
        as_import_error: ImportError = error
        del as_import_error


def values() -> None:
    """What travels with each message."""
    with taskobs.context(tenant="acme", user_id=7, share=0.5, vip=True, former=None):
        taskobs.set_context(order=1)
    try:
        taskobs.set_context(**{"no key": 1})
    except taskobs.ContextError as error:
        assert_type(error.key, str)
        assert_type(error.problem, str)
        assert_type(error.fix, str)
        as_value_error: ValueError = error
        as_ours: taskobs.TaskobsError = error
        del as_value_error, as_ours


def apps() -> None:
    """An app comes back as what it is."""
    assert_type(taskobs.instrument_app(flask.Flask("shop")), flask.Flask)
    taskobs.init(instrument=True)


def logs() -> None:
    """The fields by themselves, and in each logging library."""
    assert_type(taskobs.log_fields(), dict[str, str])
    assert_type(taskobs.log_fields(logging.makeLogRecord({})), bool)
    logging.NullHandler().addFilter(taskobs.log_fields)
    structlog.configure(processors=[taskobs.log_fields, structlog.processors.JSONRenderer()])
    loguru.logger.configure(patcher=taskobs.log_fields)


def instrumentor() -> None:
    """The class by itself, in the place of ``CeleryInstrumentor``."""
    made = taskobs.TaskInstrumentor()
    assert_type(made, taskobs.TaskInstrumentor)
    made.instrument(
        tracer_provider=TracerProvider(),
        meter_provider=NoOpMeterProvider(),
        use_span_links=True,
        stock_attributes=False,
    )
    made.uninstrument()


def package() -> None:
    """The package itself."""
    assert_type(taskobs.__version__, str)
    module: ModuleType = taskobs
    del module


def tests_of_an_app(taskobs_telemetry: Telemetry) -> None:
    """What a test asks for, and what it gets."""
    run = taskobs_telemetry.run("shop.charge", outcome="failed", attempt=1, task_id="id-1")
    assert_type(run, TaskRun)
    if run.outcome == "failed" and run.exception is not None:
        assert_type(run.exception, Raised)
        assert_type(run.exception.message, str)
    assert_type(taskobs_telemetry.runs("shop.charge", outcome="lost"), tuple[TaskRun, ...])
    assert_type(taskobs_telemetry.publish("shop.charge"), TaskPublish)
    assert_type(taskobs_telemetry.publishes(), tuple[TaskPublish, ...])
    assert_type(taskobs_telemetry.event("shop.charge", exception="ValueError"), Event)
    assert_type(taskobs_telemetry.events, tuple[Event, ...])
    assert_type(taskobs_telemetry.log("charging", level="INFO"), Log)
    assert_type(taskobs_telemetry.logs, tuple[Log, ...])
    assert_type(taskobs_telemetry.metric("shop.orders", {"kind": "card"}), Metric)
    assert_type(taskobs_telemetry.metrics, tuple[Metric, ...])
    assert_type(taskobs_telemetry.span("bank"), ReceivedSpan)
    assert_type(taskobs_telemetry.spans, tuple[ReceivedSpan, ...])
    assert_type(taskobs_telemetry.trace_of(run), Trace)
    result = Celery("shop").send_task("shop.charge")
    assert_type(taskobs_telemetry.trace_of(result).tree, str)
    assert_type(taskobs_telemetry.worker_environment(), dict[str, str])
    taskobs_telemetry.wait(1.5)
    taskobs_telemetry.clear()
    assert_type(taskobs_telemetry.report(), str)
    failures: tuple[type[AssertionError], ...] = (
        AmbiguousError,
        NotRecordedError,
        NotSettledError,
        UnexpectedTelemetryError,
    )
    del failures
