# Some of what these tests look at has no public name.
# pyright: reportPrivateUsage=false
from __future__ import annotations

from typing import Any, cast

import pytest
from celery import Celery
from celery.app.task import Context
from celery.exceptions import Ignore, Reject, Retry

from taskobs import semconv
from taskobs.celery.adapter import adapter
from taskobs.model import Broker, ExternalOutcome, Outcome, Run
from taskobs.observers import propagation


@pytest.mark.parametrize(
    ("url", "broker"),
    [
        ("memory://", Broker(system="memory")),
        ("redis://:secret@cache:6380/1", Broker(system="redis", address="cache", port=6380)),
        ("amqp://me:secret@mq//", Broker(system="rabbitmq", address="mq", port=5672)),
        (
            "amqp://me:secret@a//;amqp://me:secret@b//",
            Broker(system="rabbitmq", address="a", port=5672),
        ),
    ],
)
def test_a_broker_is_where_it_is_and_never_a_password(url: str, broker: Broker) -> None:
    """My spans tell which broker they went to, and not how I log in to it."""
    app = Celery("shop", broker=url, set_as_current=False)
    assert adapter.publish_of(app, "add", {}, None).broker == broker


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("postgresql://me:secret@db:5432/shop", "db"),
        ("srv://me:secret@db/shop", "db"),
        ("socket://:secret@/tmp/redis.sock", ""),
        ("sqlite:////tmp/shop.db", ""),
        ("a,b", "a,b"),
        ("::1", "::1"),
    ],
)
def test_an_address_that_is_a_url_is_cut_to_its_host(given: str, shown: str) -> None:
    """Transports that give a whole URL as the host don't give my password away."""
    assert adapter._host(given) == shown


@pytest.mark.parametrize(
    "text", [None, "", "x", "nan", "inf", "-inf", "-5", "0", "1e999", "1" * 999]
)
def test_a_publish_time_that_is_none_gives_no_latency(text: str | None) -> None:
    """A header that is no time tells nothing, instead of something wrong."""
    assert adapter._queue_latency({semconv.HEADER_PUBLISHED_AT: text}.get, None, 100.0) is None


@pytest.mark.parametrize(
    ("published", "eta", "latency"),
    [
        ("90", None, 10.0),
        ("110", None, 0.0),  # the clocks of two machines differ
        ("90", "1970-01-01T00:01:38+00:00", 2.0),
        ("90", "1970-01-01T00:01:38", 2.0),
        ("90", "1970-01-01T00:00:10+00:00", 10.0),
        ("90", "soon", None),
    ],
)
def test_queue_latency(published: str, eta: str | None, latency: float | None) -> None:
    """Latency counts from the publish, or from the ETA if that is later, and is never negative."""
    header = {semconv.HEADER_PUBLISHED_AT: published}.get
    assert adapter._queue_latency(header, eta, 100.0) == latency


@pytest.mark.parametrize("runs", [118, 119, 128, 200])
def test_the_links_of_a_long_chord_arrive(runs: int) -> None:
    """The callback of a chord of any length is linked to as many runs as a span can hold."""
    address = f"00-{0xA:032x}-{0xB:016x}-01"
    text = propagation.write_links([(semconv.LINK_CHORD_HEADER, address)] * runs)
    for flat, nested in (({semconv.HEADER_LINKS: text}, {}), ({}, {semconv.HEADER_LINKS: text})):
        read = propagation.read_links(adapter._reader(flat, nested)(semconv.HEADER_LINKS))
        assert len(read) == min(runs, 128)


@pytest.mark.parametrize("name", ["traceparent", "tracestate", "baggage", semconv.HEADER_CHECK_IN])
def test_other_headers_are_no_longer_than_a_propagator_s(name: str) -> None:
    """A stranger's megabyte of baggage is left alone, and so is all that is longer than W3C's."""
    for size, is_read in ((8_192, True), (8_193, False), (1_000_000, False)):
        assert (adapter._reader({name: "x" * size}, {})(name) is not None) is is_read


def test_links_are_no_longer_than_they_can_be() -> None:
    """A stranger's megabyte of links is not looked at."""
    assert adapter._reader({semconv.HEADER_LINKS: "x" * 16_385}, {})(semconv.HEADER_LINKS) is None


class Mute(Exception):  # noqa: N818  # a user's own
    def __str__(self) -> str:
        raise RuntimeError("no")

    __repr__ = __str__


def a_run() -> Run:
    return Run(task="add", name="add", task_id="id-1")


@pytest.mark.parametrize(
    ("error", "outcome", "reason"),
    [
        (Reject(Mute(), requeue=True), Outcome.REJECTED, "Mute"),
        (Reject(ValueError("busy"), requeue=True), Outcome.REJECTED, "busy"),
        (Reject(requeue=True), Outcome.REJECTED, None),
        (Ignore(Mute()), Outcome.IGNORED, "Mute"),
        (Retry(cast("Any", Mute())), Outcome.RETRIED, "Retry"),
        (Retry("later", exc=Mute()), Outcome.RETRIED, "later"),
    ],
)
def test_a_reason_that_can_not_be_told_hides_no_outcome(
    error: Exception, outcome: Outcome, reason: str | None
) -> None:
    """My task rejects with an exception whose `__str__` raises, and I see it as rejected."""
    run = a_run()
    adapter.failure(None, run, error)
    assert (run.outcome, run.reason) == (outcome, reason)
    assert run.requeued is (outcome is Outcome.REJECTED)


@pytest.mark.parametrize(
    ("retries", "attempt"),
    [
        *((None, 1), (0, 1), (2, 3), (-7, 1), ("x", 1), ("2", 1), (True, 1), (1.5, 1)),
        ([1], 1),
        pytest.param(10**400, 1, id="huge"),
    ],
)
def test_retries_that_are_no_number_are_a_first_attempt(
    app: Celery, retries: object, attempt: int
) -> None:
    """Whatever a stranger writes into `retries`, the run and its publish are seen."""
    run = adapter.run_of(
        app.tasks["celery.map"], Context({"id": "id-1", "retries": retries}), (), {}, 1.0
    )
    assert run.attempt == attempt
    publish = adapter.publish_of(app, "add", {"retries": retries, "task_id": "id-1"}, run)
    message: dict[str, Any] = {
        "headers": {"id": "id-1", "retries": retries},
        "body": ((), {}, {}),
        "exchange": "",
        "routing_key": "orders",
        "declare": (),
        "properties": {},
    }
    adapter.complete(publish, message)
    assert publish.attempt == attempt


def test_the_next_attempt_is_known_as_such(app: Celery) -> None:
    """What a run publishes under its own id, one retry later, is its next attempt."""
    run = a_run()
    run.attempt = 2
    for retries, again in ((2, run), (1, None), (3, None), ("x", None), (None, None)):
        options = {"task_id": run.task_id, "retries": retries}
        assert adapter.publish_of(app, "add", options, run).retries is again


@pytest.mark.parametrize(
    ("external", "ran"),
    [
        (ExternalOutcome(outcome=Outcome.LOST, started=5.0), True),
        (ExternalOutcome(outcome=Outcome.REVOKED, started=5.0), True),
        (ExternalOutcome(outcome=Outcome.LOST), False),
        (ExternalOutcome(outcome=Outcome.REVOKED), False),
        (ExternalOutcome(outcome=Outcome.EXPIRED), False),
        (ExternalOutcome(outcome=Outcome.UNKNOWN), False),
        (ExternalOutcome(outcome=Outcome.UNKNOWN, started=5.0), False),
    ],
)
def test_a_run_that_never_began_is_told_apart(external: ExternalOutcome, *, ran: bool) -> None:
    """What was revoked while it waited did not run; what was terminated did."""
    run = a_run()
    assert run.ran
    adapter.apply_external_outcome(run, external)
    assert run.ran is ran


def test_a_greenlet_that_is_killed_ran() -> None:
    """A revoke that ends a run on gevent or eventlet leaves its run time."""
    run, greenlet_exit = a_run(), type("GreenletExit", (BaseException,), {})
    assert not adapter.process_death(run, greenlet_exit())
    assert (run.outcome, run.ran) == (Outcome.REVOKED, True)
