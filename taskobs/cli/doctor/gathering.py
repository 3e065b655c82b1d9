"""Gathers the evidence: loads the app, asks its servers, and runs the probe task."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from taskobs.cli.doctor import loading, probing
from taskobs.cli.doctor.asking.celery_servers import ask_backend, ask_broker
from taskobs.cli.doctor.asking.clocks import clock_of
from taskobs.cli.doctor.evidence import Evidence, Response
from taskobs.cli.doctor.log_lines import LogLines
from taskobs.cli.doctor.progress import step

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan


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
    with LogLines(evidence.log), _folder_on_path():
        try:
            _gather(evidence, options)
            yield evidence
        finally:
            if evidence.session is not None:
                evidence.session.close()


@contextmanager
def _folder_on_path() -> Generator[None]:
    """Have modules imported from the current folder, as ``python -m celery`` does."""
    folder = str(Path.cwd())
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        with suppress(ValueError):  # the app has removed it
            sys.path.remove(folder)


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
        worker = probing.start_worker(stack, evidence) if options.probe else None
        with step("asking the servers of telemetry"):
            span = root_span(evidence)
            ask_servers(evidence, span)
        if worker is not None:
            with step("running a probe task in a worker of its own"):
                probing.run(evidence, worker, span, options.timeout)


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
    from taskobs.cli.doctor.asking.otlp import quiet

    with quiet():
        evidence.responses = _responses(evidence, span)
    urls = {one.url for one in evidence.responses if one.signal in {"traces", "errors"}}
    servers = {urlsplit(url).netloc: url for url in sorted(urls)}
    evidence.clocks += filter(None, map(clock_of, servers.values()))


def _responses(evidence: Evidence, span: ReadableSpan | None) -> list[Response]:
    """Ask all servers side by side; each request has a time limit of its own."""
    with ThreadPoolExecutor() as pool:
        asked = [pool.submit(ask) for ask in _requests(evidence, span)]
        return [response for one in asked for response in one.result()]


def _requests(
    evidence: Evidence, span: ReadableSpan | None
) -> Iterator[Callable[[], list[Response]]]:
    from taskobs.cli.doctor.asking import otlp, sentry

    settings, provider, dsn = evidence.settings, evidence.provider, evidence.dsn
    if settings is not None and settings.enabled:
        if span is not None and provider is not None:
            yield lambda: otlp.ask_provider(provider, span)
        elif span is not None and settings.otlp:
            yield lambda: [otlp.ask_traces(settings, span)]
        if settings.metrics_endpoint is not None:
            yield lambda: [otlp.ask_metrics(settings)]
        if settings.logs_endpoint is not None:
            yield lambda: [otlp.ask_logs(settings)]
    if dsn is not None:
        yield lambda: [sentry.ask_errors(dsn, evidence.sentry)]
