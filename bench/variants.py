"""One process that is set up in one way and measures itself on request.

Started by ``bench`` as ``python -m bench.variants NAME ENDPOINT DSN``; each line it reads is
``WHAT COUNT``, and each line that it writes is the CPU time of one such thing in microseconds.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable
from typing import Any

from celery import Celery
from celery.app import trace as celery_trace

app = Celery("bench", broker="memory://", backend="cache+memory://")
app.conf.update(task_ignore_result=True, worker_hijack_root_logger=False)


@app.task
def noop() -> None:
    """Do nothing."""


@app.task
def failing() -> None:
    """Fail."""
    raise ValueError("as asked")


def bare(_: str, __: str) -> None:
    """Set up nothing."""


def floor(endpoint: str, _: str) -> None:
    """Make two bare spans by hand, through the SDK with a batch processor."""
    from celery import signals
    from opentelemetry import trace

    _provider(endpoint)
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


def stock(endpoint: str, dsn: str) -> None:
    """Set up OpenTelemetry's instrumentor and Sentry's integration, errors only."""
    import sentry_sdk
    from opentelemetry.instrumentation.celery import CeleryInstrumentor

    _provider(endpoint)
    instrumentor: Any = CeleryInstrumentor
    instrumentor().instrument()
    sentry_sdk.init(dsn=dsn)


def nothing_configured(_: str, __: str) -> None:
    """Call ``taskobs.init()`` with nothing configured."""
    import taskobs

    taskobs.init()


def spans(endpoint: str, _: str) -> None:
    """Observe with taskobs: spans alone."""
    import taskobs

    taskobs.init(otlp_endpoint=endpoint)


def unsampled(endpoint: str, _: str) -> None:
    """Observe with taskobs: spans alone, none of which is sampled."""
    import taskobs

    taskobs.init(otlp_endpoint=endpoint, sample_rate=0)


def both(endpoint: str, dsn: str) -> None:
    """Observe with taskobs: spans and Sentry."""
    import taskobs

    taskobs.init(otlp_endpoint=endpoint, sentry_dsn=dsn)


VARIANTS: dict[str, Callable[[str, str], None]] = {
    "bare": bare,
    "floor": floor,
    "nothing configured": nothing_configured,
    "taskobs, unsampled": unsampled,
    "taskobs, spans": spans,
    "taskobs, spans + Sentry": both,
    "stock pair": stock,
}


def _provider(endpoint: str) -> None:
    from opentelemetry import trace
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    provider = TracerProvider()
    exporter = OTLPSpanExporter(endpoint=f"{endpoint}/v1/traces")
    provider.add_span_processor(BatchSpanProcessor(exporter))
    trace.set_tracer_provider(provider)


def publish(count: int) -> None:
    """Publish to the memory broker, and throw the messages away."""
    for _ in range(count):
        noop.delay()
    with app.connection_for_write() as connection:
        channel: Any = connection.default_channel
        channel.queue_purge("celery")


def _runner(task: Any, sampled: str) -> Callable[[int], None]:
    # Looked up now: Sentry's integration has put its own in its place.
    trace_task: Any = celery_trace.build_tracer(task.name, task, app=app, hostname="celery@bench")
    route = {"exchange": "", "routing_key": "celery", "priority": 0, "redelivered": False}

    def run(count: int) -> None:
        for number in range(count):
            request = {
                "id": str(number),
                "task": task.name,
                "root_id": str(number),
                "retries": 0,
                "delivery_info": route,
                "hostname": "celery@bench",
                "is_eager": False,
                "ignore_result": True,
                "traceparent": f"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-{sampled}",
            }
            trace_task(str(number), (), {}, request)

    return run


def main() -> None:
    """Set up as named, then measure what is asked for."""
    logging.disable(logging.CRITICAL)
    name, endpoint, dsn = sys.argv[1:]
    VARIANTS[name](endpoint, dsn)
    app.finalize()
    sampled = "00" if "unsampled" in name else "01"
    jobs = {
        "publish": publish,
        "run": _runner(noop, sampled),
        "failing run": _runner(failing, sampled),
    }
    for job in jobs.values():
        job(20)
    print("ready", flush=True)
    for line in sys.stdin:
        what, count = line.rsplit(" ", 1)
        before = time.process_time()
        jobs[what](int(count))
        cost = (time.process_time() - before) / int(count) * 1e6
        print(f"{cost:.3f}", flush=True)


if __name__ == "__main__":
    main()
