"""What waits in the relay's memory."""

from __future__ import annotations

import logging
import threading
import time

import pytest

from taskobs.relay.counters import DROPPED, Counters
from taskobs.relay.storage.base import OVERFLOW
from taskobs.relay.storage.items import Item, ItemKind, Stored, weight
from taskobs.relay.storage.memory import MemoryStore
from tests.support.export import PATIENCE

SMALL = 1024 * 1024
RESOURCE_BLOB = b"about"


def item(payload: bytes, source: object = None, *, envelope: bool = False) -> Item:
    return Item("envelope" if envelope else "span", payload, RESOURCE_BLOB, source)


def payloads(batch: list[Stored]) -> list[bytes]:
    return [one.item.payload for one in batch]


def test_what_is_put_in_comes_out_in_its_order_and_by_kind() -> None:
    """Spans and envelopes wait side by side, and each sender gets its own, oldest first."""
    store = MemoryStore(Counters())
    store.append([item(b"1"), item(b"x", envelope=True), item(b"2")])
    assert payloads(store.take("span", 10, SMALL, 0)) == [b"1", b"2"]
    assert payloads(store.take("envelope", 10, SMALL, 0)) == [b"x"]


def test_a_batch_is_bounded_by_items_and_by_bytes() -> None:
    """However much waits, a request stays small; but one item goes out, whatever its size."""
    store = MemoryStore(Counters())
    store.append([item(b"a" * 100), item(b"b" * 100), item(b"c" * 5000), item(b"d")])
    assert len(store.take("span", 1, SMALL, 0)) == 1
    assert payloads(store.take("span", 10, 1000, 0)) == [b"b" * 100]
    assert payloads(store.take("span", 10, 1000, 0)) == [b"c" * 5000]


def test_a_full_batch_does_not_linger() -> None:
    """Under load nothing waits for the time to pass."""
    store = MemoryStore(Counters())
    store.append([item(b"1"), item(b"2")])
    begun = time.monotonic()
    assert len(store.take("span", 2, SMALL, PATIENCE)) == 2
    store.append([item(b"3" * 2000)])
    assert len(store.take("span", 2, 1000, PATIENCE)) == 1
    assert time.monotonic() - begun < PATIENCE / 2


def test_whoever_is_in_a_hurry_gets_a_small_batch_at_once() -> None:
    """A worker that stops waits for what it has sent, not for a batch to fill."""
    store = MemoryStore(Counters())
    store.append([item(b"1")])
    begun = time.monotonic()
    mark = store.flush()
    batch = store.take("span", 100, SMALL, PATIENCE)
    assert time.monotonic() - begun < PATIENCE / 2
    assert not store.is_flushed(mark)
    store.append([item(b"later")])
    store.done(batch)
    assert store.is_flushed(mark)


def test_what_is_beyond_the_bound_is_dropped_oldest_first_and_counted(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A backend that is gone for long costs the oldest spans, not the memory; and I am told."""
    counters, released = Counters(), list[object]()
    store = MemoryStore(
        counters, released.extend, limit=3 * weight(item(b"x" * 100)) + len(RESOURCE_BLOB)
    )
    with caplog.at_level(logging.WARNING):
        for number in range(6):
            store.append([item(b"x" * 100, number, envelope=number == 1)])
    assert released == [0, 1, 2]
    assert counters.counts()[DROPPED] == {("span", OVERFLOW): 2, ("envelope", OVERFLOW): 1}
    assert [record.getMessage().count("spans") for record in caplog.records] == [1, 0]
    assert store.pending("span").items == 3


def test_what_is_being_sent_counts_but_is_not_dropped() -> None:
    """Nothing is counted as dropped that then goes out."""
    counters = Counters()
    store = MemoryStore(counters, limit=2 * weight(item(b"x")) + len(RESOURCE_BLOB))
    store.append([item(b"a"), item(b"b")])
    taken = store.take("span", 2, SMALL, 0)
    store.append([item(b"c")])
    assert counters.total(DROPPED) == 1
    assert store.pending("span").items == 2
    store.done(taken)
    assert store.pending("span") == (0, 0)


def test_what_items_share_takes_room_once_for_as_long_as_one_of_them_waits() -> None:
    """Each task has a child of its own, in a long outage: what is kept of them is bounded too."""
    counters, large = Counters(), 30_000
    store = MemoryStore(counters, limit=4 * large)
    sources = [object() for _ in range(6)]
    for n, source in enumerate(sources):
        resource_blob = b"%d" % n * large
        store.append([Item("span", b"x", resource_blob, (source, one)) for one in range(3)])
    assert store.pending("span").items == 3 * 3
    assert counters.total(DROPPED) == 3 * 3
    while batch := store.take("span", 5, SMALL, 0) if store.pending("span").items else []:
        store.done(batch)
    store.append([Item("span", b"x" * 1000, RESOURCE_BLOB, (sources[0], n)) for n in range(60)])
    assert store.pending("span").items == 60


def test_sources_are_given_back_when_their_items_are_done() -> None:
    """A process hears that what it sent is out once it is."""
    released: list[object] = []
    store = MemoryStore(Counters(), released.extend)
    store.append([item(b"1", "one"), item(b"2"), item(b"3", "three")])
    batch = store.take("span", 2, SMALL, 0)
    assert not released
    store.done(batch)
    assert released == ["one"]


def test_a_taker_wakes_when_something_comes_and_when_the_store_is_closed() -> None:
    """The relay neither polls nor hangs at its end."""
    store = MemoryStore(Counters())
    taken: list[list[Stored]] = []

    def take() -> None:
        while batch := store.take("span", 10, SMALL, 0):
            taken.append(batch)

    taker = threading.Thread(target=take)
    taker.start()
    store.append([item(b"1")])
    wait_until = time.monotonic() + PATIENCE
    while not taken and time.monotonic() < wait_until:
        time.sleep(0.001)
    store.close()
    taker.join(PATIENCE)
    assert not taker.is_alive()
    assert payloads(taken[0]) == [b"1"]


class Watched(MemoryStore):
    """Counts how often another thread than that of the test looks at what there is."""

    looks = 0

    def _untaken(self, kind: ItemKind) -> tuple[int, int]:
        if threading.current_thread() is not threading.main_thread():
            self.looks += 1
        return super()._untaken(kind)


def test_a_taker_is_not_woken_for_less_than_it_waits_for() -> None:
    """A thousand spans in a second cost the relay two wakeups of its sender, not a thousand."""
    store = Watched(Counters())
    taken: list[Stored] = []
    taker = threading.Thread(
        target=lambda: taken.extend(store.take("span", 200, SMALL, PATIENCE)), daemon=True
    )
    taker.start()
    for _ in range(200):
        store.append([item(b"1"), item(b"2", envelope=True)])
    taker.join(PATIENCE)
    assert len(taken) == 200
    assert store.looks < 20


def test_a_snapshot_has_counts_and_figures_of_the_moment() -> None:
    """`taskobs status` shows them as they are."""
    counters = Counters()
    counters.add("received", "span", 3)
    counters.dropped("span", 2, "overflow")
    counters.dropped("span", 0, "nothing")
    counters.gauge("pending", lambda: 5, "span")
    counters.gauge("clients", lambda: 4)
    shown = counters.snapshot()
    assert shown["received"] == {"span": 3}
    assert shown["dropped"] == {"span": {"overflow": 2}}
    assert (shown["pending"], shown["clients"]) == ({"span": 5}, 4)
