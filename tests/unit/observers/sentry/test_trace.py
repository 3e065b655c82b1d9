"""Sentry's trace goes from who publishes to the run, and on to what the run publishes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pytest
import sentry_sdk
from opentelemetry.sdk.trace import TracerProvider

from taskobs.model import Publish, Run, Schedule
from taskobs.observers.sentry.observer import SentryObserver
from taskobs.sentry.pipeline import SentryPipeline
from tests.support.sentry import (
    SPAN_ID,
    TRACE_ID,
    Kept,
    Settings,
    address,
    clear_isolation_scope,
    make_run,
    user_init,
)

W3C = f"00-{TRACE_ID}-{SPAN_ID}-01"


@pytest.fixture
def kept() -> Iterator[Kept]:
    """Initialise Sentry, for errors only, as an app would."""
    kept = user_init()
    yield kept
    sentry_sdk.get_global_scope().set_client(None)
    clear_isolation_scope()


@pytest.fixture
def observer(kept: Kept) -> Iterator[SentryObserver]:
    """Start a pipeline over that client."""
    assert kept
    pipeline = SentryPipeline.start(Settings())
    yield SentryObserver(pipeline)
    pipeline.close(1.0)


def publish(observer: SentryObserver, **fields: Any) -> dict[str, Any]:
    """Publish, and give the headers of the message."""
    record = Publish(task="shop.pay", name="shop.pay", **fields)
    observer.sending(record)
    return dict(record.headers)


def trace_in(event: Mapping[str, Any]) -> tuple[str, str, str | None]:
    found = event["contexts"]["trace"]
    return found["trace_id"], found["span_id"], found.get("parent_span_id")


def captured(kept: Kept, observer: SentryObserver, run: Run) -> tuple[str, str, str | None]:
    """Capture a message in a run, and give its trace."""
    with observer.run(run):
        sentry_sdk.capture_message("here")
    return trace_in(kept.events[-1])


def test_a_message_carries_the_trace_of_its_producer(kept: Kept, observer: SentryObserver) -> None:
    """What my request captures and what its task captures are one trace."""
    with sentry_sdk.isolation_scope() as scope:
        scope.set_new_propagation_context()
        sentry_sdk.capture_message("in the request")
        headers = publish(observer)
    trace_id, span_id, _ = trace_in(kept.events[0])
    assert headers["sentry-trace"] == f"{trace_id}-{span_id}"
    assert f"sentry-trace_id={trace_id}" in headers["baggage"]
    of_run = captured(kept, observer, make_run(headers=headers))
    assert (of_run[0], of_run[2]) == (trace_id, span_id)
    assert of_run[1] != span_id


def test_a_run_hands_its_trace_on(kept: Kept, observer: SentryObserver) -> None:
    """A task that publishes another hands on the trace that it was given, baggage and all."""
    incoming = {
        "sentry-trace": f"{TRACE_ID}-{SPAN_ID}",
        "baggage": f"sentry-trace_id={TRACE_ID},sentry-environment=blue",
    }
    with observer.run(make_run(headers=incoming)):
        sentry_sdk.capture_message("here")
        headers = publish(observer)
    trace_id, span_id, _ = trace_in(kept.events[0])
    assert headers["sentry-trace"] == f"{trace_id}-{span_id}" != incoming["sentry-trace"]
    assert trace_id == TRACE_ID
    assert "sentry-environment=blue" in headers["baggage"]


@pytest.mark.parametrize(
    "headers",
    [
        {"traceparent": W3C},
        {"traceparent": W3C, "sentry-trace": "nonsense"},
        {"sentry-trace": f"{TRACE_ID}-{SPAN_ID}-0", "traceparent": f"00-{'1' * 32}-{'2' * 16}-01"},
    ],
)
def test_a_run_continues_the_trace_that_is_there(
    kept: Kept, observer: SentryObserver, headers: dict[str, str]
) -> None:
    """Without Sentry's header, OpenTelemetry's says which trace my task belongs to."""
    trace_id, _, parent = captured(kept, observer, make_run(headers=headers))
    assert (trace_id, parent) == (TRACE_ID, SPAN_ID)


@pytest.mark.parametrize("header", [None, "", "x", f"{'0' * 32}-{SPAN_ID}", "-", "a" * 10_000])
def test_a_run_without_a_trace_has_one_of_its_own(
    kept: Kept, observer: SentryObserver, header: str | None
) -> None:
    """Two runs whose messages say nothing, or nonsense, are two traces, not the process's."""
    sentry_sdk.capture_message("of the process")
    for _ in range(2):
        run = make_run(headers={} if header is None else {"sentry-trace": header})
        captured(kept, observer, run)
    assert len({trace_in(event)[0] for event in kept.events}) == 3


def test_a_run_with_a_span_has_the_spans_trace(kept: Kept, observer: SentryObserver) -> None:
    """With spans on, what Sentry says of a run's trace is what Jaeger says, in threads too."""
    run = make_run(span=address(), headers={"sentry-trace": f"{'1' * 32}-{'2' * 16}"})
    assert captured(kept, observer, run) == (TRACE_ID, SPAN_ID, None)
    with observer.run(run):
        assert sentry_sdk.get_traceparent() == f"{TRACE_ID}-{SPAN_ID}"


def test_an_eager_run_stays_in_its_callers_trace(kept: Kept, observer: SentryObserver) -> None:
    """A task that runs eagerly in my request is part of the request's trace."""
    with sentry_sdk.isolation_scope() as scope:
        scope.set_new_propagation_context()
        sentry_sdk.capture_message("in the request")
        captured(kept, observer, make_run(eager=True))
    assert trace_in(kept.events[0])[0] == trace_in(kept.events[1])[0]


def test_with_a_span_the_message_carries_the_spans_ids(observer: SentryObserver) -> None:
    """A worker with Sentry alone continues the trace of my spans."""
    tracer = TracerProvider().get_tracer("test")
    with tracer.start_as_current_span("request") as span:
        headers = publish(observer, headers={"baggage": "tenant=acme,sentry-trace_id=" + "9" * 32})
    context = span.get_span_context()
    assert headers["sentry-trace"] == f"{context.trace_id:032x}-{context.span_id:016x}"
    assert headers["baggage"] == "tenant=acme"


def test_each_tick_of_beat_is_a_trace(observer: SentryObserver) -> None:
    """What beat publishes for its entries is not all one trace."""
    ticks = [publish(observer, schedule=Schedule(entry="hourly")) for _ in range(2)]
    assert len({headers["sentry-trace"][:32] for headers in ticks}) == 2


def test_members_of_others_stay_in_the_baggage(observer: SentryObserver) -> None:
    """My own baggage arrives beside Sentry's, and an earlier trace's members don't."""
    old = "tenant=acme, sentry-release=old,sentry-trace_id=" + "9" * 32
    headers = publish(observer, headers={"baggage": old})
    trace_id = headers["sentry-trace"][:32]
    assert "tenant=acme" in headers["baggage"].split(",")
    assert f"sentry-trace_id={trace_id}" in headers["baggage"]
    assert "9" * 32 not in headers["baggage"]


def test_a_baggage_that_is_too_long_is_cut(observer: SentryObserver) -> None:
    """Sentry's members go first where a header would be longer than all must take."""
    headers = publish(
        observer, headers={"baggage": ",".join(f"m{n}={'x' * 100}" for n in range(99))}
    )
    assert len(headers["baggage"]) <= 8192
    assert headers["baggage"].startswith("sentry-")


def test_sentrys_own_integration_finds_the_trace_where_it_looks(observer: SentryObserver) -> None:
    """A worker of mine that has no taskobs yet continues the trace as it always did."""
    headers = publish(observer, headers={"headers": {"mine": "yes"}})
    nested = headers["headers"]
    assert nested["mine"] == "yes"
    transaction = sentry_sdk.continue_trace(nested)
    assert transaction is None or transaction.trace_id == headers["sentry-trace"][:32]
    assert nested["baggage"] == headers["baggage"]


@pytest.mark.parametrize("wanted", [True, False])
def test_a_message_can_be_left_without_a_trace(observer: SentryObserver, *, wanted: bool) -> None:
    """I say for one message that Sentry's trace ends here, as with Sentry's own integration."""
    headers = publish(observer, headers={"sentry-propagate-traces": wanted})
    assert ("sentry-trace" in headers) is wanted
    assert "sentry-propagate-traces" not in headers


def test_without_sentry_no_message_is_touched() -> None:
    """With no client there is no header of Sentry's."""
    pipeline = SentryPipeline.start(Settings())
    try:
        assert publish(SentryObserver(pipeline)) == {}
    finally:
        pipeline.close(1.0)
