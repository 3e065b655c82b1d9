"""Where a spool's envelopes go: never where its file says."""

# A few tests look inside.
# pyright: reportPrivateUsage=false

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from taskobs.protocol import frames
from taskobs.relay.counters import DROPPED, Counters
from taskobs.relay.storage.base import OVERFLOW, TOO_OLD
from taskobs.relay.storage.items import Item, weight
from taskobs.relay.storage.spool import destinations
from taskobs.relay.storage.spool.store import Spool, SpoolConfig
from tests.support.pids import NO_PROCESS
from tests.support.spool import look


def client(dsn: str, **options: object) -> bytes:
    """What a process announces."""
    return frames.pack({"dsn": dsn, "options": options})


OURS = client("https://key@sentry.example/1", http_proxy="http://proxy.example")
OTHERS = client("https://key@elsewhere.example/2")


@pytest.fixture
def config(tmp_path: Path) -> SpoolConfig:
    return SpoolConfig(tmp_path / "spool", "celery@a", worker_pid=os.getpid())


def envelope(payload: bytes, destination: bytes = OURS) -> Item:
    return Item("envelope", payload, destination)


def given(spool: Spool) -> list[tuple[bytes, bytes]]:
    """Take and forget all that may be sent: what, and where to."""
    found: list[tuple[bytes, bytes]] = []
    while batch := spool.take("envelope", 1, 1, 0, timeout=0):
        found += [(one.item.payload, one.item.resource_blob) for one in batch]
        spool.done(batch)
    return found


def test_an_envelope_waits_until_a_process_announces_its_client(config: SpoolConfig) -> None:
    """My worker is restarted: its events go out once it has said where to, and not before."""
    with closing(Spool(Counters(), config)) as first:
        first.append([envelope(b"1"), envelope(b"2"), envelope(b"x", OTHERS)])
    with closing(Spool(Counters(), config)) as second:
        assert second.pending("envelope") == (0, 0)
        assert second.parked == 3
        assert given(second) == []
        second.announce(OURS)
        assert second.parked == 1
        assert second.pending("envelope").items == 2
        second.append([envelope(b"3")])
        assert given(second) == [(b"1", OURS), (b"2", OURS), (b"3", OURS)]
        second.announce(OTHERS)
        assert given(second) == [(b"x", OTHERS)]


def test_what_is_parked_is_not_overwritten(config: SpoolConfig) -> None:
    """Ids go on after those of envelopes that nobody may send yet."""
    with closing(Spool(Counters(), config)) as first:
        first.append([envelope(b"1")])
    with closing(Spool(Counters(), config)) as second:
        second.append([envelope(b"2", OTHERS)])
        assert given(second) == [(b"2", OTHERS)]
        second.announce(OURS)
        assert given(second) == [(b"1", OURS)]


def test_an_envelope_goes_where_its_client_says_now(config: SpoolConfig) -> None:
    """I have given my worker another proxy: what waits for the same DSN goes through that."""
    moved = client("https://key@sentry.example/1", http_proxy="http://other.example")
    with closing(Spool(Counters(), config)) as first:
        first.append([envelope(b"1")])
    with closing(Spool(Counters(), config)) as second:
        second.announce(moved)
        assert given(second) == [(b"1", moved)]


def test_two_clients_of_one_dsn_keep_their_own_options(config: SpoolConfig) -> None:
    """Both send to one project, and only one of them through a proxy."""
    direct = client("https://key@sentry.example/1")
    with closing(Spool(Counters(), config)) as first:
        first.append([envelope(b"1", direct), envelope(b"2")])
        assert given(first) == [(b"1", direct), (b"2", OURS)]
        first.append([envelope(b"3", direct), envelope(b"4")])
    with closing(Spool(Counters(), config)) as second:
        second.announce(direct)
        second.announce(OURS)
        assert given(second) == [(b"3", direct), (b"4", OURS)]


@pytest.mark.parametrize("what", ["payload", "id"])
def test_a_destination_that_is_written_into_the_file_is_not_used(
    config: SpoolConfig, what: str
) -> None:
    """Somebody plants a DSN of theirs: nothing goes there, and my own events go on."""
    with closing(Spool(Counters(), config)) as first:
        first.append([envelope(b"1")])
    theirs = OTHERS if what == "payload" else b"\0" * 64
    with closing(sqlite3.connect(config.directory / "celery@a.spool")) as db, db:
        db.execute("UPDATE about SET value = ?", (theirs,))
    with closing(Spool(Counters(), config)) as second:
        second.announce(OURS)
        second.append([envelope(b"2")])
        assert given(second) == [(b"2", OURS)]
        assert second.parked == 1


def test_the_file_has_no_destination_at_all(config: SpoolConfig) -> None:
    """Keys of a DSN and passwords of proxies are not on the disk."""
    with closing(Spool(Counters(), config)) as spool:
        spool.append([envelope(b"1")])
        for path in config.directory.iterdir():
            content = path.read_bytes()
            assert b"sentry.example" not in content
            assert b"proxy.example" not in content


def test_a_take_over_leaves_what_it_can_not_send(config: SpoolConfig) -> None:
    """Two apps share the directory: each sends its own events, and spans of the other too."""
    other = config._replace(worker="other", worker_pid=NO_PROCESS)
    with closing(Spool(Counters(), other)) as spool:
        spool.append([envelope(b"theirs", OTHERS), envelope(b"ours"), Item("span", b"s", b"about")])
    path = config.directory / "other.spool"
    with closing(Spool(Counters(), config)) as spool:
        spool.announce(OURS)
        look(spool)
        assert given(spool) == [(b"ours", OURS)]
        assert spool.pending("span").items == 1
        assert path.exists()
        look(spool)
        with closing(Spool(Counters(), other._replace(worker_pid=os.getpid()))) as again:
            assert again.path == path
            again.announce(OTHERS)
            assert given(again) == [(b"theirs", OTHERS)]


def test_what_was_left_is_taken_over_once_somebody_announces_its_client(
    config: SpoolConfig,
) -> None:
    """A library of mine sets Sentry up late: what another worker of mine has left goes out."""
    with closing(
        Spool(Counters(), config._replace(worker="other", worker_pid=NO_PROCESS))
    ) as spool:
        spool.append([envelope(b"late", OTHERS)])
    with closing(Spool(Counters(), config)) as spool:
        spool.announce(OURS)
        look(spool)
        assert given(spool) == []
        spool.announce(OTHERS)
        assert given(spool) == [(b"late", OTHERS)]
        assert not (config.directory / "other.spool").exists()


def test_what_nobody_ever_announces_is_dropped_in_time_and_counted(config: SpoolConfig) -> None:
    """I have removed Sentry: its last events do not stay on my disk for ever."""
    other = config._replace(worker="other", worker_pid=NO_PROCESS)
    for one in (config, other):
        with closing(Spool(Counters(), one)) as spool:
            spool.append([envelope(b"1")])
    counters = Counters()
    with closing(Spool(counters, config._replace(age=0.000001))) as spool:
        look(spool)
        assert spool.parked == 0
    assert counters.counts()[DROPPED] == {("envelope", TOO_OLD): 2}
    assert not (config.directory / "other.spool").exists()


def test_what_is_parked_takes_part_of_the_room(config: SpoolConfig) -> None:
    """What waits for nobody does not fill the disk: it is dropped first, being the oldest."""
    with closing(Spool(Counters(), config)) as spool:
        spool.append([envelope(b"1"), envelope(b"2")])
    counters = Counters()
    with closing(Spool(counters, config._replace(bytes=2 * weight(envelope(b"1"))))) as spool:
        spool.append([envelope(b"3", OTHERS)])
        assert spool.parked == 1
        assert given(spool) == [(b"3", OTHERS)]
    assert counters.counts()[DROPPED] == {("envelope", OVERFLOW): 1}


def test_what_is_on_hold_stays_so_when_another_client_is_announced(config: SpoolConfig) -> None:
    """One Sentry is down, and what waits for another one is sent as soon as that is known."""
    with closing(Spool(Counters(), config)) as spool:
        spool.append([envelope(b"parked", OTHERS)])
    with closing(Spool(Counters(), config)) as spool:
        spool.append([envelope(b"1")])
        spool.hold(OURS)
        assert given(spool) == []
        spool.announce(OTHERS)
        assert given(spool) == [(b"parked", OTHERS)]
        spool.release(OURS)
        assert given(spool) == [(b"1", OURS)]


def test_clients_are_bounded(config: SpoolConfig) -> None:
    """A process that announces ever new clients is told so; those that are known go on."""
    with closing(Spool(Counters(), config)) as spool:
        for number in range(destinations.MOST):
            spool.announce(client(f"https://key@sentry.example/{number}"))
        with pytest.raises(OverflowError):
            spool.announce(client("https://key@one-more.example/1"))
        for number in range(destinations.MOST):
            spool.announce(client("https://key@sentry.example/1", http_proxy=f"http://{number}"))
        spool.append([envelope(b"1")])
        assert given(spool) == [(b"1", OURS)]
