"""One destination's envelopes wait on hold, those of others go on: in memory and on disk."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Generator
from contextlib import closing
from pathlib import Path

import pytest

from taskobs.relay.counters import Counters
from taskobs.relay.storage.base import Store
from taskobs.relay.storage.items import Item, Stored
from taskobs.relay.storage.memory import MemoryStore
from taskobs.relay.storage.spool.backlog import WriteBacklog
from taskobs.relay.storage.spool.store import Spool, SpoolConfig
from tests.support.export import PATIENCE

A, B = b"client a", b"client b"
SMALL = 1024 * 1024


@pytest.fixture(params=["memory", "spool"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Generator[Store]:
    """Give an empty store of either kind."""
    made: Store = (
        MemoryStore(Counters())
        if request.param == "memory"
        else Spool(Counters(), SpoolConfig(tmp_path, "celery@a"))
    )
    with closing(made):
        yield made


def envelope(number: int, destination: bytes) -> Item:
    return Item("envelope", b"%d" % number, destination)


def span(number: int) -> Item:
    return Item("span", b"%d" % number, b"resource")


def take(store: Store, number: int = 1) -> list[Stored]:
    return store.take("envelope", number, SMALL, 0, timeout=0)


def payloads(batch: list[Stored]) -> list[int]:
    return [int(one.item.payload) for one in batch]


def test_a_destination_on_hold_gives_nothing_and_others_do(store: Store) -> None:
    """One Sentry is down: what waits for the other is given, oldest first."""
    store.append([envelope(1, A), envelope(2, A), envelope(3, B), span(4), envelope(5, B)])
    store.hold(A)
    assert payloads(take(store)) == [3]
    assert payloads(take(store)) == [5]
    assert take(store) == []
    assert payloads(store.take("span", 9, SMALL, 0)) == [4]
    assert store.pending("envelope").items == 4
    store.release(A)
    assert payloads(take(store, 9)) == [1, 2]


def test_what_is_put_back_is_given_again_as_what_is_oldest(store: Store) -> None:
    """Requests that failed in any order are made again in the order of their envelopes."""
    store.append([envelope(number, A) for number in range(6)])
    zero, one, two = take(store), take(store), take(store)
    mark = one[0].id
    store.put_back(two)
    store.put_back(zero)
    store.done(one)
    assert not store.is_flushed(mark)
    assert store.pending("envelope").items == 5
    assert payloads(take(store, 9)) == [0, 2, 3, 4, 5]
    assert take(store) == []


def test_what_is_put_back_while_its_destination_is_on_hold_waits(store: Store) -> None:
    """A request fails: its envelope is given again, but not before the pause is over."""
    store.append([envelope(1, A), envelope(2, B), envelope(3, A)])
    first = take(store)
    store.hold(A)
    store.put_back(first)
    assert payloads(take(store, 9)) == [2]
    store.append([envelope(4, B), envelope(5, A)])
    assert payloads(take(store, 9)) == [4]
    store.release(A)
    assert payloads(take(store, 9)) == [1, 3, 5]


def test_a_taker_that_found_all_on_hold_hears_of_what_comes_for_others(store: Store) -> None:
    """While one Sentry is down, a new error for the other one is sent at once."""
    store.append([envelope(1, A)])
    store.hold(A)
    assert woken(store, lambda: store.append([envelope(2, B)])) == [2]
    assert woken(store, lambda: store.release(A)) == [1]


@pytest.mark.parametrize("event", ["flush", "interrupt", "close"])
def test_a_taker_returns_when_something_else_is_to_be_done(store: Store, event: str) -> None:
    """A sender that waits for its destination's pause to end hears that the worker stops."""
    store.append([envelope(1, A)])
    store.hold(A)
    ends = {"flush": store.flush, "close": store.close}
    assert woken(store, ends.get(event, lambda: store.interrupt("envelope"))) == []


def woken(store: Store, wake: Callable[[], object]) -> list[int]:
    """Give what a taker gets that waits while ``wake`` is called."""
    found: list[list[Stored]] = []
    signal = store.signals("envelope")
    taker = threading.Thread(
        target=lambda: found.append(store.take("envelope", 1, 1, 0, signal=signal))
    )
    taker.start()
    taker.join(0.1)
    assert taker.is_alive()
    wake()
    taker.join(PATIENCE)
    assert not taker.is_alive()
    return payloads(found[0])


def test_what_was_put_back_to_memory_is_not_passed_over_once_it_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk was full, a request failed, the disk has room again: nothing waits for ever."""
    with closing(Spool(Counters(), SpoolConfig(tmp_path, "celery@a"))) as spool:
        rows = spool._rows  # pyright: ignore[reportPrivateUsage]  # the disk
        add = rows.add

        def full(*_: object) -> None:
            raise sqlite3.OperationalError("database or disk is full")

        monkeypatch.setattr(rows, "add", full)
        spool.append([envelope(1, A), envelope(2, A)])
        first = take(spool)
        monkeypatch.setattr(rows, "add", add)
        monkeypatch.setattr("taskobs.relay.storage.spool.backlog.AGAIN", 0.0)
        monkeypatch.setattr(spool._writes._backlog, "_due", 0.0)  # pyright: ignore[reportPrivateUsage]
        spool.append([envelope(3, A)])
        assert payloads(take(spool, 9)) == [2, 3]
        spool.put_back(first)
        spool.append([envelope(4, A)])
        assert payloads(take(spool, 9)) == [1, 4]


def test_what_is_compressed_in_memory_waits_on_hold_too() -> None:
    """A long outage of one Sentry: its events are compressed, and come out in their order."""
    store = MemoryStore(Counters())
    store.append([Item("envelope", b"%06d" % n + b" " * 2000, A) for n in range(2_000)])
    store.append([envelope(7, B)])
    store.hold(A)
    assert payloads(take(store)) == [7]
    store.release(A)
    first = take(store)
    store.put_back(first)
    found: list[int] = []
    while batch := take(store, 100):
        found += payloads(batch)
    assert found == list(range(2_000))


def test_a_spool_that_was_replaced_keeps_what_is_put_back(tmp_path: Path) -> None:
    """The file was damaged while a request was under way, which then fails: it is tried again."""
    with closing(Spool(Counters(), SpoolConfig(tmp_path, "celery@a"))) as spool:
        spool.append([envelope(1, A)])
        first = take(spool)
        with spool._lock:  # pyright: ignore[reportPrivateUsage]  # what a damaged file brings about
            spool._handle(sqlite3.DatabaseError("malformed"))  # pyright: ignore[reportPrivateUsage]
        spool.put_back(first)
        assert payloads(take(spool)) == [1]


def test_what_waits_for_the_disk_compressed_is_written_in_its_order() -> None:
    """A disk that was full for long has room again: all that memory kept is written."""
    backlog = WriteBacklog()
    backlog.add([Stored(n, 0.0, Item("span", b" " * 2000, A)) for n in range(1, 2_001)], (), ())
    found: list[int] = []
    while batch := backlog.take():
        found += [one.id for one in batch]
    assert found == list(range(1, 2_001))
