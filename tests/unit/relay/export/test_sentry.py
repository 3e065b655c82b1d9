"""Sentry's envelopes out of the relay."""

from __future__ import annotations

import gc
import json
import time

import pytest

from taskobs.protocol import frames
from taskobs.relay.counters import DROPPED, EXPORTED, RETRIED
from taskobs.relay.export import envelopes, sentry
from taskobs.relay.export.sender import MALFORMED
from taskobs.relay.storage.items import Item
from taskobs.testing.receiver import Receiver
from tests.support.envelopes import bodies, envelope, item, sent
from tests.support.export import Reply, backend, quick, running, wait_out

LIMITS = "X-Sentry-Rate-Limits"


def test_events_arrive_as_they_were_captured() -> None:
    """A failed task's event is in Sentry, byte for byte, with the client's key."""
    with backend() as there:
        store, counters, sender = sent()
        store.append([item(there.dsn, 1), item(there.dsn, 2)])
        with running(sender, store):
            wait_out(store)
        assert bodies(there) == [envelope(1), envelope(2)]
        assert there.requests[0].path == "/api/1/envelope/"
        assert "sentry_key=key" in there.requests[0].headers["X-Sentry-Auth"]
        assert counters.total(EXPORTED, "envelope") == 2


def test_each_client_has_its_own_sentry() -> None:
    """Two apps in one worker send to two projects."""
    with Receiver() as first, Receiver() as second:
        store, _, sender = sent()
        store.append([item(first.dsn, 1), item(second.dsn, 2), item(first.dsn, 3)])
        with running(sender, store):
            wait_out(store)
        assert [event.data["message"] for event in first.events] == ["error 1", "error 3"]
        assert [event.data["message"] for event in second.events] == ["error 2"]


def test_few_transports_are_kept_open() -> None:
    """A worker whose tasks make clients of their own does not fill the relay with them."""
    with backend() as there:
        store, counters, sender = sent()
        store.append([item(there.dsn, n, ca_certs=None, org_id=str(n)) for n in range(20)])
        with running(sender, store):
            wait_out(store)
        assert counters.total(EXPORTED) == 20
        gc.collect()
        assert len(sender._destinations) == envelopes.CLIENTS  # pyright: ignore[reportPrivateUsage]  # a look inside


@pytest.mark.parametrize("status", [408, 502, 503, 504])
def test_a_disturbed_sentry_is_asked_again(status: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sentry is upgraded: no event is lost, none comes twice."""
    quick(monkeypatch)
    with backend(Reply(status), Reply(status)) as there:
        store, counters, sender = sent()
        store.append([item(there.dsn, 1), item(there.dsn, 2)])
        with running(sender, store):
            wait_out(store)
        assert bodies(there) == [envelope(1)] * 3 + [envelope(2)]
        assert counters.total(RETRIED) == 2
        assert counters.total(DROPPED) == 0


def test_errors_do_not_wait_for_a_limit_of_something_else() -> None:
    """Sentry takes no check-ins for a while: they come again; my errors go out at once."""
    with backend(Reply(429, {LIMITS: "30:monitor"})) as there:
        store, counters, sender = sent()
        numbers = enumerate(["check_in", "event", "check_in", "event"])
        store.append([item(there.dsn, number, kind) for number, kind in numbers])
        with running(sender, store):
            wait_out(store)
        assert bodies(there) == [envelope(0, "check_in"), envelope(1), envelope(3)]
        assert counters.counts()[DROPPED] == {("envelope", "rate limited by Sentry"): 2}


@pytest.mark.parametrize("status", [400, 401, 403, 404, 413])
def test_what_sentry_refuses_is_counted_and_the_rest_goes_on(status: int) -> None:
    """One event is too large, or the project is gone: it is counted with the reason."""
    with backend(Reply(status)) as there:
        store, counters, sender = sent()
        store.append([item(there.dsn, 1), item(there.dsn, 2)])
        with running(sender, store):
            wait_out(store)
        assert bodies(there) == [envelope(1), envelope(2)]
        assert counters.counts()[DROPPED] == {("envelope", f"HTTP {status}"): 1}


def test_a_key_that_a_server_repeats_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    """Bugsink names the DSN that it does not know: the log has its words, without the key."""
    with backend() as there:
        dsn = there.dsn.replace("key@", "c0ffee00:5ec2e7@")
        said = json.dumps({"detail": f"Project not found or key incorrect: {dsn}"})
        there.replies.append(Reply(403, body=said.encode()))
        store, _, sender = sent()
        store.append([item(dsn, 1)])
        with running(sender, store), caplog.at_level("WARNING", "taskobs"):
            wait_out(store)
    assert "HTTP 403 (Project not found or key incorrect: http://***:***@127.0.0.1" in caplog.text
    assert "c0ffee00" not in caplog.text
    assert "5ec2e7" not in caplog.text


def test_a_connection_that_ends_unanswered_is_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sentry, or a proxy, hangs up: the event goes out over a new connection."""
    quick(monkeypatch)
    monkeypatch.setattr(sentry, "TIMEOUT", 0.3)
    with backend(Reply(hang=True)) as there:
        store, counters, sender = sent()
        store.append([item(there.dsn, 1)])
        with running(sender, store):
            wait_out(store)
        assert counters.total(EXPORTED) == 1
        assert counters.total(DROPPED) == 0


def test_a_short_limit_is_waited_for() -> None:
    """Sentry asks for a second: nothing is sent meanwhile, and nothing is lost."""
    with backend(Reply(429, {"Retry-After": "1"})) as there:
        store, counters, sender = sent()
        store.append([item(there.dsn, 1), item(there.dsn, 2)])
        with running(sender, store):
            wait_out(store)
        first, second, _ = there.requests
        assert second.at - first.at >= 0.9
        assert counters.total(EXPORTED) == 2


def test_a_quota_that_is_used_up_drops_what_it_concerns_and_no_more() -> None:
    """Sentry takes no errors for an hour: check-ins still arrive, errors are counted."""
    with backend(Reply(200, {LIMITS: "3600:error;transaction:key:quota, x"})) as there:
        store, counters, sender = sent()
        numbers = enumerate(["event", "event", "check_in", "event", "odd"])
        store.append([item(there.dsn, number, kind) for number, kind in numbers])
        with running(sender, store):
            wait_out(store)
        assert bodies(there)[0] == envelope(0)
        assert sorted(bodies(there)) == [envelope(0), envelope(2, "check_in"), envelope(4, "odd")]
        assert counters.counts()[DROPPED] == {("envelope", "rate limited by Sentry"): 2}


def test_a_limit_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """A limit that names no category is for all."""
    quick(monkeypatch)
    with backend(Reply(429, {LIMITS: "3600::organization"})) as there:
        store, counters, sender = sent()
        store.append([item(there.dsn, 1), item(there.dsn, 2, "check_in")])
        with running(sender, store):
            wait_out(store)
        assert len(there.requests) == 1
        assert counters.total(DROPPED, "envelope") == 2


@pytest.mark.parametrize(
    "resource_blob",
    [b"\xc1", frames.pack({"dsn": "nonsense", "options": {}}), frames.pack({"options": {}})],
)
def test_a_client_that_makes_no_sense_is_counted(resource_blob: bytes) -> None:
    """One process names no Sentry: the others are not harmed."""
    with backend() as there:
        store, counters, sender = sent()
        store.append([Item("envelope", envelope(1), resource_blob), item(there.dsn, 2)])
        with running(sender, store):
            wait_out(store)
        assert bodies(there) == [envelope(2)]
        assert counters.counts()[DROPPED] == {("envelope", MALFORMED): 1}


def test_an_envelope_that_is_none_is_sentrys_to_judge() -> None:
    """What a process sent is not read here, but for its kind."""
    with backend(Reply(400)) as there:
        store, counters, sender = sent()
        resource_blob = item(there.dsn, 1).resource_blob
        store.append(
            [Item("envelope", b"nonsense", resource_blob), Item("envelope", b"\n\n", resource_blob)]
        )
        with running(sender, store):
            wait_out(store)
        assert bodies(there) == [b"nonsense", b"\n\n"]
        assert counters.total(DROPPED) == 1


def test_a_slow_sentry_is_waited_for_at_the_end() -> None:
    """The worker stops: its last error is in Sentry before its relay ends."""
    with backend(Reply(delay=0.3)) as there:
        store, counters, sender = sent()
        with running(sender, store):
            store.append([item(there.dsn, 1)])
            begun = time.monotonic()
            assert sender.stop(120)
            assert time.monotonic() - begun < 60
        assert counters.total(EXPORTED) == 1
