"""Stands for OpenTelemetry's instrumentation of a web framework."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

from opentelemetry import propagate, trace


@contextmanager
def request_span(traceparent: str | None) -> Generator[None]:
    """Go on with the trace of a request that has one."""
    if traceparent is None:
        yield
        return
    carried = propagate.extract({"traceparent": traceparent})
    kind = trace.SpanKind.SERVER
    with trace.get_tracer("web").start_as_current_span("GET /buy", context=carried, kind=kind):
        yield
