"""What makes the spans of a task: the same for all tasks, unless a rule names a share of traces."""

from __future__ import annotations

from typing import NamedTuple

from opentelemetry.trace import Tracer

from taskobs.observers.deferred_attributes import DeferredAttributes, StartDescribed


class TaskTracer(NamedTuple):
    """A tracer, and what describes its spans."""

    tracer: Tracer
    deferred: DeferredAttributes | None
    start_described: StartDescribed | None
    """Starts a span with its description in one call, if the tracer can."""
    link: bool
    """Whether a run is the root of a trace of its own, linked to its publish."""


def task_tracer(
    tracer: Tracer, deferred: DeferredAttributes | None = None, *, link: bool = False
) -> TaskTracer:
    """Return what makes spans with a tracer."""
    return TaskTracer(tracer, deferred, getattr(tracer, "start_described", None), link)
