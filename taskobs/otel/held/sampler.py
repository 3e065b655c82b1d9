"""Has runs that are not sampled recorded in a worker, with the spans inside them, and marks these.

They stay unsampled: what a message carries says so. The mark names the run that a span is in. It
is kept on the span's context, which a span has in common with its copies, and which the spans
below it have as their parent.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.trace import Span
from opentelemetry.sdk.trace.sampling import Decision, Sampler, SamplingResult
from opentelemetry.trace import Link, SpanContext, SpanKind, TraceState
from opentelemetry.util.types import Attributes

from taskobs import semconv
from taskobs.protocol.held_spans.marks import Mark

_MARK: Final = "_taskobs_mark"


def mark_on(context: SpanContext | None) -> Mark | None:
    """Return the mark of the span whose context this is."""
    return getattr(context, _MARK, None)


def set_mark(context: SpanContext, mark: Mark) -> Mark | None:
    """Mark the span whose context this is; None if this release of the API can't keep it."""
    try:
        # A context is a tuple that ignores assignments; what is in its dict is no part of it.
        vars(context)[_MARK] = mark
    except TypeError:  # it has no dict
        return None
    return mark


class Switch:
    """Whether this process is a worker's."""

    on = False


class HoldingSampler(Sampler):
    """Has runs and what is inside them recorded where ``decides`` drops them, once turned on."""

    def __init__(self, decides: Sampler, switch: Switch | None = None) -> None:
        self.taskobs_decides = decides
        """See ``internal.samplers``."""
        self._switch = switch or Switch()

    def turn_on(self) -> None:
        """Hold runs from now on, also with those that were made by ``taskobs_before``."""
        self._switch.on = True

    def taskobs_before(self, decides: Sampler) -> HoldingSampler:
        """Return the same in front of another sampler."""
        return HoldingSampler(decides, self._switch)

    def should_sample(  # noqa: PLR0913, PLR0917  # as the SDK's
        self,
        parent_context: Context | None,
        trace_id: int,
        name: str,
        kind: SpanKind | None = None,
        attributes: Attributes = None,
        links: Sequence[Link] | None = None,
        trace_state: TraceState | None = None,
    ) -> SamplingResult:
        """Decide as the other one, but have what may be kept recorded."""
        more = () if trace_state is None else (trace_state,)
        decided = self.taskobs_decides.should_sample(
            parent_context, trace_id, name, kind, attributes, links, *more
        )
        if not self._switch.on or decided.decision is not Decision.DROP:
            return decided
        parent = trace.get_current_span(parent_context).get_span_context()
        if mark_on(parent) is None and not _is_run(kind, name):
            return decided
        return SamplingResult(Decision.RECORD_ONLY, attributes, decided.trace_state)

    def get_description(self) -> str:
        """Describe it."""
        return f"Holding{{{self.taskobs_decides.get_description()}}}"

    def mark(
        self, context: SpanContext, parent: SpanContext | None, kind: SpanKind, name: str
    ) -> Mark | None:
        """Mark a new span that is not sampled; None if it is in no run."""
        if not self._switch.on:
            return None
        above, is_run = mark_on(parent), _is_run(kind, name)
        if above is not None:
            return set_mark(context, Mark(is_run, above.run))
        if not is_run:
            return None
        return set_mark(context, Mark(is_run, context.span_id.to_bytes(8, "big")))

    def mark_span(self, span: Span) -> None:
        """Mark a span of the SDK that starts, if it is recorded and not sampled."""
        context = span.get_span_context()
        if not context.trace_flags.sampled and mark_on(context) is None:
            self.mark(context, span.parent, span.kind, span.name)


def _is_run(kind: SpanKind | None, name: str) -> bool:
    return kind is SpanKind.CONSUMER and name.startswith(semconv.RUN_SPAN)
