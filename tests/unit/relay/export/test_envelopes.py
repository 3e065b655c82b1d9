"""Envelopes go out in parallel, and one that fails, or a Sentry that is down, holds up no other."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import sentry_sdk
from sentry_sdk.envelope import Envelope
from sentry_sdk.transport import HttpTransport

from taskobs.relay.counters import DROPPED, EXPORTED, RETRIED, Counters
from taskobs.relay.export import destinations, envelopes, responses
from taskobs.relay.export.sender import AT_THE_END
from taskobs.relay.storage.base import Store
from taskobs.relay.storage.items import Item
from taskobs.relay.storage.memory import MemoryStore
from taskobs.relay.storage.spool.store import Spool, SpoolConfig
from tests.live.services import free_port
from tests.support.envelopes import client, envelope, item, numbers, sent
from tests.support.export import (
    PATIENCE,
    Backend,
    Reply,
    Request,
    backend,
    quick,
    running,
    until,
    wait_out,
)

DELAY = 0.1
HANG = Reply(hang=True)


def unreachable() -> str:
    """Return a DSN at which nobody listens, and no other test will."""
    return f"http://key@127.0.0.1:{free_port()}/1"


@pytest.fixture(params=["memory", "spool"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """Give an empty store of either kind; the sender's end closes it."""
    if request.param == "memory":
        return MemoryStore(Counters())
    return Spool(Counters(), SpoolConfig(tmp_path, "celery@a"))


def test_a_sentry_that_does_not_answer_holds_up_no_other(store: Store) -> None:
    """One of my two Sentrys takes connections and says nothing: the other one gets its events."""
    with backend(respond=lambda _: HANG) as silent, backend() as well:
        _, counters, sender = sent(store)
        store.append([item(silent.dsn, number) for number in range(200)])
        store.append([item(well.dsn, number) for number in range(20)])
        with running(sender, store):
            silent.wait(1)
            well.wait(20)
            store.append([item(well.dsn, 20)])
            well.wait(21)
            assert len(silent.requests) == 1
            assert counters.total(DROPPED) == 0
            silent.closing.set()
        assert sorted(numbers(well)) == list(range(21))


def test_a_sentry_that_is_down_for_long_loses_nothing_and_holds_up_no_other(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One Sentry refuses connections for a while: its events wait, those of others don't."""
    quick(monkeypatch)
    dead = unreachable()
    with backend() as well:
        _, counters, sender = sent(store)
        with running(sender, store):
            for number in range(150):
                store.append([item(dead, number), item(well.dsn, number)])
            well.wait(150)
            until(lambda: store.pending("envelope").items == 150)
            monkeypatch.setattr("tests.support.export._PORT", int(dead.split(":")[2].split("/")[0]))
            with backend() as back:
                wait_out(store)
                assert sorted(numbers(back)) == list(range(150))
        assert counters.total(EXPORTED) == 300
        assert counters.total(DROPPED) == 0


@pytest.mark.parametrize("children", [1, 2, 4])
def test_a_slow_sentry_gets_at_least_as_many_as_without_a_relay(children: int) -> None:
    """Sentry takes 100 ms for each event: a relay is no slower than so many processes are."""
    count = 3 * children
    with backend(respond=lambda _: Reply(delay=DELAY)) as there:
        seconds_direct(there, children, count)
        direct = there.most_at_once
        assert len(there.requests) == count
    with backend(respond=lambda _: Reply(delay=DELAY)) as there:
        store, _, sender = sent()
        with running(sender, store):
            store.append([item(there.dsn, number) for number in range(count)])
            there.wait(count)
            wait_out(store)
        assert Counter(numbers(there)) == Counter(range(count))
        assert there.most_at_once <= there.connections <= envelopes.THREADS
    # By count and not by time, which a busy machine decides: tools/slow_sentry.py measures that.
    assert there.most_at_once >= direct == children


def seconds_direct(there: Backend, children: int, count: int) -> float:
    """Send with Sentry's own transport, one for each child; return how long it took."""
    transports = [HttpTransport(client_options(there.dsn)) for _ in range(children)]
    begun = time.monotonic()
    for number in range(count):
        transports[number % children].capture_envelope(Envelope.deserialize(envelope(number)))
    threads = [threading.Thread(target=one.flush, args=(PATIENCE,)) for one in transports]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    took = time.monotonic() - begun
    for one in transports:
        one.kill()
    return took


def client_options(dsn: str) -> dict[str, Any]:
    return sentry_sdk.Client(dsn=dsn, default_integrations=False, send_client_reports=False).options


def test_under_load_each_envelope_is_sent_once_over_few_connections(store: Store) -> None:
    """Hundreds of failures at once: Sentry has each of them once, and is not flooded."""
    with backend(respond=lambda _: Reply(delay=0.005)) as first, backend() as second:
        _, counters, sender = sent(store)
        with running(sender, store):
            for number in range(0, 200, 20):
                some = range(number, number + 20)
                store.append([item(one.dsn, n) for n in some for one in (first, second)])
            wait_out(store)
            ours = [one for one in threading.enumerate() if one.name.startswith("taskobs-env")]
            assert 1 < len(ours) <= envelopes.THREADS
        for there in (first, second):
            assert Counter(numbers(there)) == Counter(range(200))
            assert there.most_at_once <= destinations.WINDOW
            assert there.connections <= destinations.WINDOW
        assert counters.total(EXPORTED) == 400


def test_an_envelope_on_which_sentry_fails_holds_up_no_other(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One event breaks my Sentry each time: the next one is there before it is tried again."""
    others_came, attempts = threading.Event(), list[int]()

    def backoff(attempt: int) -> float:
        attempts.append(attempt)
        return 0.01 if others_came.is_set() else 3600.0

    monkeypatch.setattr(responses, "backoff", backoff)
    with backend(respond=fails_on(1)) as there:
        _, counters, sender = sent(store)
        store.append([item(there.dsn, 1), item(there.dsn, 2)])
        with running(sender, store):
            there.wait(2)
            assert numbers(there) == [1, 2]
            others_came.set()
            store.flush()  # ends the hour, if it has begun: that try is none of the five
            store.append([item(there.dsn, 3)])
            until(lambda: not store.pending("envelope").items)
        early = attempts.count(0) - 1
        assert early in {0, 1}
        assert Counter(numbers(there)) == {1: 5 + early, 2: 1, 3: 1}
        assert counters.counts()[DROPPED] == {("envelope", "HTTP 500"): 1}


def test_many_envelopes_on_which_sentry_fails_hold_up_no_other(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A whole group fails with a text that breaks my Sentry: other errors are there in seconds."""
    quick(monkeypatch, 3600.0)
    monkeypatch.setattr(destinations, "_PACE", 0.01)
    bad = range(60)
    with backend(respond=fails_on(*bad)) as there:
        _, counters, sender = sent(store)
        store.append([item(there.dsn, number) for number in [*bad, 100, 101]])
        with running(sender, store):
            there.wait(62)
            assert Counter(numbers(there)) == Counter([*bad, 100, 101])
            until(lambda: counters.total(EXPORTED) == 2)
            assert counters.total(DROPPED) == 0


def fails_on(*bad: int) -> Any:
    """Return what answers 500 to some envelopes, and 200 to others."""
    texts = [f'"event_id": "{number:032x}"'.encode() for number in bad]

    def respond(request: Request) -> Reply:
        return Reply(500 if any(text in request.body for text in texts) else 200)

    return respond


def test_a_sentry_that_fails_on_everything_loses_nothing(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sentry's database is down for a while, and it answers 500: all events are there later."""
    quick(monkeypatch)
    monkeypatch.setattr(destinations, "_PACE", 0.01)
    # By number: a busy machine may not stop it in time, and it gives up after twenty tries of each.
    with backend(*[Reply(500)] * 60) as there:
        _, counters, sender = sent(store)
        store.append([item(there.dsn, number) for number in range(20)])
        with running(sender, store):
            wait_out(store)
        assert set(numbers(there)) == set(range(20))
        assert counters.total(DROPPED) == 0
        assert counters.total(EXPORTED) == 20


def test_an_outage_is_said_twice_at_its_start_and_at_its_end(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Sentry can't be reached for a while: I read one line then, one later, and no more."""
    quick(monkeypatch)
    dead = unreachable()
    store, counters, sender = sent()
    store.append([item(dead, number) for number in range(10)])
    with caplog.at_level(logging.DEBUG), running(sender, store):
        until(lambda: counters.total(RETRIED) >= 20)
        monkeypatch.setattr("tests.support.export._PORT", int(dead.split(":")[2].split("/")[0]))
        with backend():
            wait_out(store)
    warnings = [one.getMessage() for one in caplog.records if one.levelno >= logging.WARNING]
    start, over = warnings
    assert "envelope export to 127.0.0.1" in start
    assert "Connection refused" in start
    assert "key@" not in caplog.text
    assert "works again" in over


def test_an_envelope_that_is_too_large_is_said_once_with_its_size(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Sentry refuses large events: I read how large, once, and others arrive."""
    body = b'{"detail": "envelope exceeded size limits for type \'event\'"}'
    with backend(respond=lambda request: too_large(request, body)) as there:
        store, counters, sender = sent()
        large = envelope(1, message="x" * 2_000_000)
        store.append([Item("envelope", large, client(there.dsn)), item(there.dsn, 2)])
        store.append([Item("envelope", large, client(there.dsn)), item(there.dsn, 3)])
        with running(sender, store), caplog.at_level(logging.WARNING, "taskobs"):
            wait_out(store)
        assert Counter(numbers(there)) == {1: 2, 2: 1, 3: 1}
        assert counters.counts()[DROPPED] == {("envelope", "HTTP 413"): 2}
    [line] = [one.getMessage() for one in caplog.records]
    assert "2.0 MB" in line
    assert "exceeded size limits" in line


def too_large(request: Request, body: bytes) -> Reply:
    if len(request.body) < 1_000_000:
        return Reply()
    return Reply(413, {"Content-Type": "application/json"}, body)


def test_requests_under_way_at_the_end_are_counted_once() -> None:
    """The relay ends while Sentry is slow: an event is counted as sent or as dropped, not both."""
    with backend(
        respond=lambda request: Reply(delay=0.3 if b"error 0" in request.body else 30)
    ) as there:
        store, counters, sender = sent()
        store.append([item(there.dsn, 0), item(there.dsn, 1)])
        sender.start()
        there.wait(1)
        assert not sender.stop(0)
        sender.join(PATIENCE)
        store.close()
        assert counters.total(EXPORTED) + counters.total(DROPPED) == 2
        assert counters.counts()[DROPPED] == {("envelope", AT_THE_END): 1}
        assert numbers(there) == [0]
