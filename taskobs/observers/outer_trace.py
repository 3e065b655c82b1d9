"""Joins the trace that Sentry has where OpenTelemetry has none.

A request without a span has a trace in Sentry all the same. What it publishes is then a child of
that, so that the events of the request and of its tasks are in one trace. OpenTelemetry's sampler
decides as for a new trace: whether Sentry records its own spans says nothing of these.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from hashlib import blake2b
from typing import Any, Final

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, Tracer

from taskobs import semconv
from taskobs.internal.samplers import deciding

Ids = tuple[str, str]
"""A trace id and a span id, in hex."""
Source = Callable[[], "Ids | None"]

_FORM: Final = re.compile(r"([0-9a-f]{32})-([0-9a-f]{16})(?:-[01])?")
_SAMPLERS: Final = "opentelemetry.sdk.trace.sampling"
_HEED_PARENTS: Final = frozenset({"ParentBased", "StaticSampler"})
sources: Final[list[Source]] = []
"""Each returns the ids of the current request in Sentry; None outside of requests."""


def read(header: object) -> Ids | None:
    """Read a ``sentry-trace`` header; None for anything else."""
    found = _FORM.fullmatch(header) if isinstance(header, str) else None
    if found is None or not int(found[1], 16) or not int(found[2], 16):
        return None
    return found[1], found[2]


def of_request(tracer: Tracer, name: str) -> Context | None:
    """Return the current context with the span that Sentry has for a request, if there is one."""
    for source in sources:
        ids = source()
        if ids is not None:
            return joined(tracer, name, ids)
    return None


def of_message(
    tracer: Tracer, name: str, headers: Mapping[str, str], context: Context
) -> tuple[Context, SpanContext] | None:
    """Return a run's context with the span in Sentry that its message names, and that span."""
    ids = read(headers.get(semconv.HEADER_SENTRY_TRACE))
    found = None if ids is None else joined(tracer, name, ids, context)
    if found is None:
        return None
    return found, trace.get_current_span(found).get_span_context()


def joined(tracer: Tracer, name: str, ids: Ids, context: Context | None = None) -> Context | None:
    """Return a context, by default the current one, with a span in Sentry as its span."""
    sampled = _is_sampled(tracer, name, ids[0])
    if sampled is None:
        return None
    parent = SpanContext(
        int(ids[0], 16),
        int(ids[1], 16),
        is_remote=True,
        trace_flags=TraceFlags(TraceFlags.SAMPLED if sampled else TraceFlags.DEFAULT),
    )
    return trace.set_span_in_context(NonRecordingSpan(parent), context)


def _is_sampled(tracer: Tracer, name: str, trace_id: str) -> bool | None:
    """Decide as for a new trace; None if the sampler does not do as a parent's was decided.

    Sentry's trace ids are UUIDs, in which some bits are fixed. A sampler that decides by the bits
    of an id gets others in their place, the same for all spans of a trace.
    """
    sampler: Any = deciding(getattr(tracer, "sampler", None))
    kinds = type(sampler).__mro__
    if not any(kind.__module__ == _SAMPLERS and kind.__name__ in _HEED_PARENTS for kind in kinds):
        return None
    mixed = int.from_bytes(blake2b(trace_id.encode(), digest_size=16).digest(), "big")
    return bool(sampler.should_sample(Context(), mixed, name).decision.is_sampled())
