"""What makes the spans of a task: the same for all tasks, unless a rule names a share of traces."""

from __future__ import annotations

from typing import NamedTuple

from opentelemetry.context import Context
from opentelemetry.trace import Span, SpanContext, SpanKind, Tracer

from taskobs.model.attributes import whole
from taskobs.observers.deferred_attributes import DeferredAttributes, Describe, StartDescribed


class TaskTracer(NamedTuple):
    """A tracer, and what describes its spans."""

    tracer: Tracer
    deferred: DeferredAttributes | None
    start_described: StartDescribed | None
    """Starts a span with its description in one call, if the tracer can."""
    link: bool
    """Whether a run is the root of a trace of its own, linked to its publish."""

    def start(
        self,
        name: str,
        context: Context | None,
        parent: SpanContext,
        kind: SpanKind,
        describe: Describe,
    ) -> Span:
        """Start a span without links below its ``context``'s, the ``parent``."""
        if self.deferred is None:
            return self.tracer.start_span(name, context, kind, whole(describe()))
        if self.start_described is not None:  # as nearly always
            span = self.start_described(name, context, parent, kind, describe, None)
            if span is not None:
                return span
        return self.deferred.start_span(name, context, parent, kind, describe)


def task_tracer(
    tracer: Tracer, deferred: DeferredAttributes | None = None, *, link: bool = False
) -> TaskTracer:
    """Return what makes spans with a tracer."""
    return TaskTracer(tracer, deferred, getattr(tracer, "start_described", None), link)
