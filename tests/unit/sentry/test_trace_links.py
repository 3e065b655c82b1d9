"""Events lead to their traces: the page of the trace is on each event of a recorded span."""

from __future__ import annotations

from collections.abc import Generator

import pytest
import sentry_sdk
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import (
    ALWAYS_OFF,
    ALWAYS_ON,
    Decision,
    Sampler,
    SamplingResult,
)

from taskobs.config.settings import resolve
from taskobs.model import SpanAddress
from taskobs.observers.sentry.event_rule import EventRule
from taskobs.observers.sentry.observer import SentryObserver
from taskobs.sentry.event_rules import event_rule
from taskobs.sentry.pipeline import SentryPipeline
from taskobs.sentry.trace_links import TraceLinks
from tests.support.sentry import (
    SPAN_ID,
    TRACE_ID,
    Kept,
    Settings,
    address,
    clear_isolation_scope,
    fail,
    make_run,
    raised,
)
from tests.support.sentry import user_init as init_of_app

PAGE = 'https://grafana.example/explore?left={"q":"{trace_id}"}#{span_id}'
LINK = f'https://grafana.example/explore?left={{"q":"{TRACE_ID}"}}#{SPAN_ID}'


@pytest.fixture
def kept() -> Generator[Kept]:
    """Link the events of an app's client."""
    found, links = init_of_app(), TraceLinks(PAGE)
    pipeline = SentryPipeline.start(Settings())
    links.install()
    yield found
    links.remove()
    pipeline.close(1.0)
    sentry_sdk.get_global_scope().set_client(None)
    clear_isolation_scope()


@pytest.fixture
def observer(kept: Kept) -> SentryObserver:
    del kept
    return SentryObserver(SentryPipeline(), EventRule(trace_url=PAGE))


def links_of(kept: Kept) -> list[tuple[object, object]]:
    """Give the link in the context and in the tag of each event."""
    found: list[tuple[object, object]] = []
    for event in kept.events:
        context: dict[str, object] = event["contexts"].get("taskobs", {})
        tags: dict[str, object] = event.get("tags") or {}
        found.append((context.get("trace_url"), tags.get("taskobs.trace_url")))
    return found


def test_a_failure_leads_to_its_trace(kept: Kept, observer: SentryObserver) -> None:
    """I click the link on an issue, and see the run's trace; other braces stay as they are."""
    fail(observer, make_run(span=address()))
    assert links_of(kept) == [(LINK, LINK)]


def test_what_a_run_captures_itself_leads_there_too(kept: Kept, observer: SentryObserver) -> None:
    """A thread of a run has no span of its own, and its event has the run's link."""
    with observer.run(make_run(span=address())):
        sentry_sdk.capture_message("from a thread")
    assert links_of(kept) == [(LINK, LINK)]


def test_a_trace_that_is_not_recorded_has_no_link(kept: Kept, observer: SentryObserver) -> None:
    """A link that leads nowhere is worse than none."""
    unsampled = SpanAddress(int(TRACE_ID, 16), int(SPAN_ID, 16), sampled=False)
    fail(observer, make_run(span=unsampled))
    fail(observer, make_run(span=None))
    assert links_of(kept) == [(None, None), (None, None)]


class _RecordOnly(Sampler):
    """Has spans recorded though they are not sampled, as ``keep`` does."""

    def should_sample(self, *_: object, **__: object) -> SamplingResult:
        return SamplingResult(Decision.RECORD_ONLY)

    def get_description(self) -> str:
        return "as keep does"


@pytest.mark.parametrize("keep", [["failed"], ["lost"], []])
def test_the_failure_of_a_run_that_is_kept_leads_to_its_trace(kept: Kept, keep: list[str]) -> None:
    """I sample one trace in a hundred and keep failures: their events have the link.

    So has an event that the run captured itself, before it failed by the same exception.
    """
    rule = event_rule(resolve({"keep": keep or None, "trace_url": PAGE}, {}))
    observer = SentryObserver(SentryPipeline(), rule)
    provider = TracerProvider(sampler=_RecordOnly(), shutdown_on_exit=False)
    for captures in (False, True):
        with provider.get_tracer("t").start_as_current_span("run") as span:
            found = span.get_span_context()
            run = make_run(span=SpanAddress(found.trace_id, found.span_id, sampled=False))
            with observer.run(run):
                sentry_sdk.capture_message("nobody knows yet how it ends")
                run.exception = raised(ValueError("no funds"))
                if captures:
                    sentry_sdk.capture_exception(run.exception)
                observer.failed(run)
    linked = [context is not None and context == tag for context, tag in links_of(kept)]
    assert linked == [False, "failed" in keep] * 2


def test_events_outside_of_runs_lead_to_their_spans(kept: Kept) -> None:
    """An error of a web request has the link to the request's trace, if that is recorded."""
    for sampler in (ALWAYS_ON, ALWAYS_OFF):
        provider = TracerProvider(sampler=sampler, shutdown_on_exit=False)
        with provider.get_tracer("web").start_as_current_span("GET /") as span:
            sentry_sdk.capture_message("in a request")
            trace_id = f"{span.get_span_context().trace_id:032x}"
        if sampler is ALWAYS_ON:
            assert trace_id in str(links_of(kept)[0][0])
    sentry_sdk.capture_message("in no span")
    assert links_of(kept)[1:] == [(None, None), (None, None)]


def test_a_link_too_long_for_a_tag_is_in_the_context(kept: Kept) -> None:
    """Sentry drops a tag above 200 characters: the link is there, and whole."""
    long = "https://jaeger.example/" + "x" * 180 + "/{trace_id}"
    fail(SentryObserver(SentryPipeline(), EventRule(trace_url=long)), make_run(span=address()))
    assert links_of(kept) == [(long.replace("{trace_id}", TRACE_ID), None)]


def test_removed_links_come_no_more(kept: Kept) -> None:
    """After `close()`, events are as the app makes them."""
    links = TraceLinks("https://jaeger.example/{trace_id}")
    links.install()
    links.remove()
    with TracerProvider(shutdown_on_exit=False).get_tracer("web").start_as_current_span("GET /"):
        sentry_sdk.capture_message("in a request")
    assert "jaeger.example" not in repr(links_of(kept))
