"""The ways of observing that are compared, each as a function that sets a process up."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

NAPS = {0.005: 6, 0.05: 64}
"""Seconds that the task ``bench.app.nap`` waits for; of so many no-op tasks, one."""

Flush = Callable[[], object]
"""Waits until all that was recorded is out of the process, or out of its relay."""


@dataclass(frozen=True)
class Target:
    """Where a set-up exports to."""

    endpoint: str
    dsn: str
    agent: str = ""
    """What answers as Datadog's agent."""


def bare(_: Target) -> Flush:
    """Set up nothing."""
    return lambda: None


def floor(target: Target) -> Flush:
    """Make two bare spans by hand, through the SDK with a batch processor."""
    from celery import signals
    from opentelemetry import trace

    provider = _provider(target)
    flush: Flush = provider.force_flush
    tracer = trace.get_tracer("floor")
    open_spans: dict[str, Any] = {}

    def published(sender: str, headers: dict[str, Any], **_: object) -> None:
        open_spans[headers["id"]] = tracer.start_span(
            f"publish {sender}", kind=trace.SpanKind.PRODUCER
        )

    def sent(headers: dict[str, Any], **_: object) -> None:
        open_spans.pop(headers["id"]).end()

    def started(task: Any, task_id: str, **_: object) -> None:
        open_spans[task_id] = tracer.start_span(f"run {task.name}", kind=trace.SpanKind.CONSUMER)

    def ended(task_id: str, **_: object) -> None:
        open_spans.pop(task_id).end()

    def failed(task_id: str, exception: BaseException, **_: object) -> None:
        open_spans[task_id].record_exception(exception)

    signals.before_task_publish.connect(published, weak=False)
    signals.after_task_publish.connect(sent, weak=False)
    signals.task_prerun.connect(started, weak=False)
    signals.task_failure.connect(failed, weak=False)
    signals.task_postrun.connect(ended, weak=False)
    return flush


def floor_worker(target: Target) -> Flush:
    """Set up the floor in each pool child, as OpenTelemetry's documentation says."""
    from celery import signals

    def child_started(**_: object) -> None:
        floor(target)

    signals.worker_process_init.connect(child_started, weak=False)
    return lambda: None


def stock(target: Target) -> Flush:
    """Set up OpenTelemetry's instrumentor and Sentry's integration, errors only."""
    import sentry_sdk
    from opentelemetry.instrumentation.celery import CeleryInstrumentor

    provider = _provider(target)
    instrumentor: Any = CeleryInstrumentor
    instrumentor().instrument()
    sentry_sdk.init(dsn=target.dsn)

    def flush() -> None:
        provider.force_flush()
        sentry_sdk.flush()

    return flush


def stock_worker(target: Target) -> Flush:
    """Do as the documentation of both says for a prefork worker."""
    import sentry_sdk
    from celery import signals
    from opentelemetry.instrumentation.celery import CeleryInstrumentor

    def child_started(**_: object) -> None:
        _provider(target)
        instrumentor: Any = CeleryInstrumentor
        instrumentor().instrument()

    signals.worker_process_init.connect(child_started, weak=False)
    sentry_sdk.init(dsn=target.dsn)
    return lambda: None


def nothing_configured(_: Target) -> Flush:
    """Call ``taskobs.init()`` with nothing configured."""
    import taskobs

    taskobs.init()
    return lambda: None


def not_sent(_: Target) -> Flush:
    """Observe with taskobs: spans, through a provider of the user's that sends nothing."""
    from opentelemetry import trace
    from opentelemetry.sdk.trace import TracerProvider

    import taskobs

    trace.set_tracer_provider(TracerProvider())
    taskobs.init()
    return lambda: None


def taskobs_with(
    *, sentry: bool = False, everything: bool = False, metrics: bool = True, **options: Any
) -> Setup:
    """Give a set-up of taskobs: spans, and what is asked for beside them."""

    def set_up(target: Target) -> Flush:
        import taskobs

        given: dict[str, Any] = {"otlp_endpoint": target.endpoint, **options}
        if sentry or everything:
            given["sentry_dsn"] = target.dsn
        if everything:
            given |= {"send_arguments": True, "crons": True}
            os.environ["OTEL_EXPORTER_OTLP_METRICS_ENDPOINT"] = f"{target.endpoint}/v1/metrics"
        if not metrics:
            os.environ["OTEL_METRICS_EXPORTER"] = "none"
        session = taskobs.init(**given)
        return lambda: session.flush(30)

    return set_up


Setup = Callable[[Target], Flush]

SETUPS: dict[str, Setup] = {
    "bare": bare,
    "floor": floor,
    "nothing configured": nothing_configured,
    "unsampled, direct": taskobs_with(sample_rate=0, relay=False),
    "unsampled, relay": taskobs_with(sample_rate=0, relay=True),
    "unsampled + keep, relay": taskobs_with(sample_rate=0, keep=["failed"], relay=True),
    "spans, sent nowhere": not_sent,
    "spans, direct": taskobs_with(relay=False),
    "spans, relay": taskobs_with(relay=True),
    "spans + Sentry, direct": taskobs_with(sentry=True, relay=False),
    "spans + Sentry, relay": taskobs_with(sentry=True, relay=True),
    "everything, direct": taskobs_with(everything=True, relay=False),
    "everything, relay": taskobs_with(everything=True, relay=True),
    "stock pair": stock,
}
"""What is measured in one process."""

WORKER_SETUPS: dict[str, Setup] = {
    "bare": bare,
    "floor": floor_worker,
    "everything, relay": SETUPS["everything, relay"],
    "everything but metrics, relay": taskobs_with(everything=True, metrics=False, relay=True),
    "everything, relay stopped": SETUPS["everything, relay"],
    "everything, direct": SETUPS["everything, direct"],
    "stock pair": stock_worker,
}
"""What is measured as a prefork worker."""


def _provider(target: Target) -> Any:
    from opentelemetry import trace
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    provider = TracerProvider()
    exporter = OTLPSpanExporter(endpoint=f"{target.endpoint}/v1/traces")
    provider.add_span_processor(BatchSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
    return provider
