"""Gathers the evidence: loads the app, asks its servers, and runs the probe task."""

from __future__ import annotations

import os
import signal
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from secrets import token_hex
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from taskobs.cli.doctor import loading
from taskobs.cli.doctor.asking.celery_servers import ask_backend, ask_broker
from taskobs.cli.doctor.asking.clocks import clock_of
from taskobs.cli.doctor.evidence import Evidence, Probe
from taskobs.cli.doctor.progress import step

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan

    from taskobs.cli.doctor.probe.worker import ProbeWorker

_FLUSH: Final = 5.0
_QUEUE: Final = "taskobs-doctor-"


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line says."""

    app: str
    pool: str | None = None
    timeout: float = 30.0
    """Seconds that the probe task may take to run, from the start of its worker."""
    probe: bool = True


@contextmanager
def gathered(options: Options) -> Generator[Evidence]:
    """Have the evidence for the length of a block; then the app's session is closed."""
    evidence = Evidence(name=options.app, environ=dict(os.environ), pool=options.pool)
    try:
        _gather(evidence, options)
        yield evidence
    finally:
        if evidence.session is not None:
            evidence.session.close()


def _gather(evidence: Evidence, options: Options) -> None:
    evidence.versions = dict(loading.versions())
    with step(f"importing {options.app}"):
        loading.load(evidence)
        loading.configure(evidence)
    evidence.relay_problem = loading.relay_problem(evidence.settings)
    if evidence.app is not None:
        with step("asking the broker and the result backend"):
            _ask_celery(evidence)
    with ExitStack() as stack:
        worker = _worker(stack, evidence, options)
        with step("asking the servers of telemetry"):
            span = root_span(evidence)
            ask_servers(evidence, span)
        if worker is not None:
            with step("running a probe task in a worker of its own"):
                _run_probe(evidence, worker, span, options.timeout)


# Servers.


def _ask_celery(evidence: Evidence) -> None:
    evidence.broker, clock = ask_broker(evidence.app)
    evidence.backend = ask_backend(evidence.app)
    if clock is not None:
        evidence.clocks.append(clock)


def root_span(evidence: Evidence) -> ReadableSpan | None:
    """Return the span below which the probe is published: sampled, and ended."""
    settings = evidence.settings
    if settings is None or not evidence.spans:
        return None
    from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
    from opentelemetry.sdk.trace.sampling import ALWAYS_ON

    from taskobs.otel.resource import resource_of
    from taskobs.session.environment import AppName

    resource = getattr(evidence.provider, "resource", None) or resource_of(settings, AppName())
    made = TracerProvider(sampler=ALWAYS_ON, resource=resource, shutdown_on_exit=False)
    span = made.get_tracer("taskobs").start_span("taskobs doctor")
    span.end()
    return span if isinstance(span, ReadableSpan) else None


def ask_servers(evidence: Evidence, span: ReadableSpan | None) -> None:
    """Send the span, and what stands for all other telemetry; read the servers' clocks."""
    from taskobs.cli.doctor.asking import otlp, sentry

    settings, responses = evidence.settings, evidence.responses
    if settings is not None and settings.enabled:
        if span is not None and evidence.provider is not None:
            responses += otlp.ask_provider(evidence.provider, span)
        elif span is not None and settings.otlp:
            responses.append(otlp.ask_traces(settings, span))
        if settings.metrics_endpoint is not None:
            responses.append(otlp.ask_metrics(settings))
        if settings.logs_endpoint is not None:
            responses.append(otlp.ask_logs(settings))
    if evidence.dsn is not None:
        responses.append(sentry.ask_errors(evidence.dsn, evidence.sentry))
    urls = {one.url for one in responses if one.signal in {"traces", "errors"}}
    servers = {urlsplit(url).netloc: url for url in sorted(urls)}
    evidence.clocks += filter(None, map(clock_of, servers.values()))


# The probe.


def _worker(stack: ExitStack, evidence: Evidence, options: Options) -> ProbeWorker | None:
    """Start the probe's worker, if there is an app and a broker for it."""
    broker = evidence.broker
    if not options.probe or broker is None or broker.problem is not None:
        return None
    from taskobs.cli.doctor.probe.worker import probe_worker

    queue = f"{_QUEUE}{token_hex(4)}"
    stack.callback(_delete_queue, evidence, queue)  # when the worker has stopped
    return stack.enter_context(probe_worker(options.app, queue, options.pool))


def _run_probe(
    evidence: Evidence, worker: ProbeWorker, span: ReadableSpan | None, timeout: float
) -> None:
    from taskobs.cli.doctor.probe import publish

    found = evidence.probe = Probe()
    context = None if span is None else span.get_span_context()
    if context is not None:
        found.trace_id = f"{context.trace_id:032x}"
    order, result = worker.order, None
    try:
        with publish.LogLines() as lines:
            result = publish.publish(evidence.app, order.queue, order.folder, context, found)
            if result is not None:
                worker.wait(found, timeout, event=evidence.dsn is not None)
            if found.run is not None and publish.has_results(evidence.app):
                found.stored = publish.is_stored(result)
            if evidence.session is not None:
                found.flushed = evidence.session.flush(_FLUSH)
            found.publish_log = list(lines)
    finally:
        with _uninterrupted():
            worker.stop(found)
            publish.forget(result)


def _delete_queue(evidence: Evidence, queue: str) -> None:
    from taskobs.cli.doctor.probe import publish

    with _uninterrupted():
        problem = publish.delete_queue(evidence.app, queue)
    if evidence.probe is not None:
        evidence.probe.queue_left = problem


@contextmanager
def _uninterrupted() -> Generator[None]:
    """Let a second Ctrl-C wait until nothing of the probe is left."""
    before: dict[int, Any] = {
        number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
