"""Links from the events of a process to the pages of their traces, in runs and outside of them."""

from __future__ import annotations

from typing import cast

import sentry_sdk
from opentelemetry import trace
from sentry_sdk.types import Event, Hint

from taskobs.observers.sentry.reported import exception_of
from taskobs.observers.sentry.trace_page import add_trace_url
from taskobs.sentry import _compat, trace_ids


class TraceLinks:
    """Links each event whose span is recorded to the page of its trace.

    ``template`` is the page's address, with ``{trace_id}`` in it. Installed after the pipeline,
    which puts the event on its span.
    """

    def __init__(self, template: str) -> None:
        self._template = template

    def install(self) -> None:
        """Process the events of this process from now on."""
        sentry_sdk.get_global_scope().add_event_processor(self._process)

    def remove(self) -> None:
        """Process no more."""
        _compat.remove_event_processor(sentry_sdk.get_global_scope(), self._process)

    def _process(self, event: Event, hint: Hint) -> Event:
        fields = cast("dict[str, object]", event)
        if event.get("type") != trace_ids.TRANSACTION:
            span = trace_ids.span_of(exception_of(hint))
            if span is not None and span.trace_flags.sampled:
                add_trace_url(fields, self._template, trace.format_trace_id(span.trace_id))
        return event
