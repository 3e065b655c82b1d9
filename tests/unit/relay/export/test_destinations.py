"""How much is sent to one Sentry, and when: decided without threads and without waiting."""

from __future__ import annotations

import math

import pytest

from taskobs.relay.export import destinations, responses
from taskobs.relay.export.destinations import (
    MOST_TRIES,
    SET_ASIDE,
    TRIES,
    WINDOW,
    Destination,
    Failure,
    ServerFailingError,
)
from taskobs.relay.export.responses import ExportResult, ExportStatus
from taskobs.relay.export.sentry import SentryPoster
from taskobs.relay.storage.items import Item, Stored

NO_RESPONSE = ExportResult(ExportStatus.RETRY, "no response")


class Clock:
    """A clock that stands still until it is set."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Give the destination's clock; the backoff is 1, 2, 4 … seconds without jitter."""

    def backoff(attempt: int) -> float:
        return 2.0**attempt

    monkeypatch.setattr(responses, "backoff", backoff)
    return Clock()


@pytest.fixture
def sentry(clock: Clock) -> Destination:
    """Give a destination of which nothing is known yet."""
    return Destination(b"key", SentryPoster("http://key@host/1", {}), clock)


def failure(number: int, size: int = 10) -> Failure:
    return Failure(0.0, number, Stored(number, 0.0, Item("envelope", b"x" * size, b"key")))


def begin(sentry: Destination) -> int:
    """Begin as many requests as it allows; return how many that are."""
    begun = 0
    while sentry.ready:
        sentry.in_flight += 1
        begun += 1
    return begun


def test_requests_at_a_time_grow_with_success_to_a_bound(sentry: Destination) -> None:
    """A Sentry that answers gets more at a time, and never more than it is promised."""
    most: list[int] = []
    for _ in range(7):
        most.append(begin(sentry))
        sentry.in_flight = 0
        sentry.succeeded()
    assert most == [1, 2, 4, 8, WINDOW, WINDOW, WINDOW]


def test_a_failed_request_makes_it_one_at_a_time(sentry: Destination, clock: Clock) -> None:
    """A Sentry that goes down occupies one thread from then on."""
    for _ in range(5):
        sentry.succeeded()
    sentry.unavailable(NO_RESPONSE, clock.now)
    assert not sentry.ready
    clock.now = sentry.next_at
    assert begin(sentry) == 1


def test_requests_that_fail_together_are_one_attempt(sentry: Destination, clock: Clock) -> None:
    """Sixteen requests fail with the outage: the next try comes as soon as after one."""
    begun = clock.now
    clock.now += 10
    for _ in range(16):
        sentry.unavailable(NO_RESPONSE, begun)
    assert sentry.next_at == clock.now + 1
    clock.now += 1
    sentry.unavailable(NO_RESPONSE, clock.now)
    assert sentry.next_at == clock.now + 2


def test_a_wait_that_sentry_asks_for_is_kept(sentry: Destination, clock: Clock) -> None:
    """Sentry asks for 30 s: neither a flush nor the end of the worker make that shorter."""
    sentry.unavailable(NO_RESPONSE._replace(wait=30.0), clock.now, longest=1.0)
    sentry.flush()
    assert sentry.next_at == clock.now + 30


def test_a_flush_ends_a_pause(sentry: Destination, clock: Clock) -> None:
    """My worker stops, and Sentry is back: it is tried at once."""
    for _ in range(4):
        sentry.unavailable(NO_RESPONSE, clock.now)
    assert not sentry.ready
    sentry.flush()
    assert sentry.ready


def test_an_envelope_is_given_up_after_a_few_failures_while_others_pass(
    sentry: Destination, clock: Clock
) -> None:
    """One event breaks Sentry: it is tried a few times, more and more seldom."""
    waits: list[float] = []
    given_up = sentry.failed_on(failure(1))
    while not given_up:
        sentry.succeeded()
        waits.append(sentry.next_at - clock.now)
        clock.now = sentry.next_at
        found = sentry.due()
        assert found is not None
        given_up = sentry.failed_on(found)
    assert waits == [1, 2, 4, 8]
    assert [one.tries for one in given_up] == [TRIES]


def test_an_envelope_is_kept_longer_while_nothing_else_passes(
    sentry: Destination, clock: Clock
) -> None:
    """Sentry fails on everything for a while: my event is not to blame, and waits."""
    given_up = sentry.failed_on(failure(1))
    while not given_up:
        clock.now = sentry.next_at
        found = sentry.due()
        if found is not None:
            given_up = sentry.failed_on(found)
    assert [one.tries for one in given_up] == [MOST_TRIES]


def test_a_try_before_its_time_is_not_counted(sentry: Destination, clock: Clock) -> None:
    """Children that end ask for a flush each: that does not use up the tries of an event."""
    assert sentry.failed_on(failure(1)) == []
    for _ in range(3 * MOST_TRIES):
        clock.now += 0.5
        sentry.flush()
        found = sentry.due()
        assert found is not None
        assert found.tries == 1
        assert sentry.failed_on(found) == []


def test_many_failures_one_after_the_other_are_paced(sentry: Destination, clock: Clock) -> None:
    """A Sentry that fails on each event is not flooded with the others."""
    sentry.failed_on(failure(1))
    assert sentry.ready
    sentry.failed_on(failure(2))
    assert not sentry.ready
    clock.now += 0.2
    assert sentry.ready


def test_more_failures_than_there_is_room_for_mean_that_the_server_fails(
    sentry: Destination,
) -> None:
    """Sentry fails on a hundred events and accepts none: then the server is down, and they wait."""
    for number in range(SET_ASIDE):
        assert sentry.failed_on(failure(number)) == []
    with pytest.raises(ServerFailingError):
        sentry.failed_on(failure(SET_ASIDE))
    sentry.succeeded()
    [given_up] = sentry.failed_on(failure(SET_ASIDE))
    assert given_up.others_accepted


def test_failures_are_bounded_by_their_size(
    sentry: Destination, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Large events that fail don't fill the relay's memory."""
    monkeypatch.setattr(destinations, "SET_ASIDE_BYTES", 10_000)
    assert sentry.failed_on(failure(0, 20_000)) == []
    with pytest.raises(ServerFailingError):
        sentry.failed_on(failure(1, 10))


def test_no_failure_is_forgotten_when_there_is_no_room(
    sentry: Destination, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A large event has no room beside others: what was set aside is tried again all the same."""
    monkeypatch.setattr(destinations, "SET_ASIDE_BYTES", 10_000)
    sentry.failed_on(failure(1, 100))
    sentry.succeeded()
    sentry.failed_on(failure(2, 5_000))
    with pytest.raises(ServerFailingError):
        sentry.failed_on(failure(3, 9_000))
    clock.now += 1
    found = [sentry.due(), sentry.due()]
    assert sorted(one.number for one in found if one is not None) == [1, 2]


def test_it_is_idle_once_nothing_is_left_to_do(sentry: Destination, clock: Clock) -> None:
    """A client that is no longer used is forgotten; one with a pause or a failure is not."""
    assert sentry.idle
    assert sentry.next_at == math.inf
    sentry.in_flight = 1
    assert not sentry.idle
    sentry.in_flight = 0
    sentry.unavailable(NO_RESPONSE, clock.now)
    assert not sentry.idle
    assert sentry.failing == "no response"
    clock.now += 1
    assert sentry.idle
    failed = failure(1)
    failed.reason = "HTTP 500"
    sentry.succeeded()
    sentry.failed_on(failed)
    assert not sentry.idle
    assert sentry.failing == "HTTP 500"
