"""What waits for long in the relay's memory is compressed, and takes what it is said to take."""

from __future__ import annotations

from taskobs.relay.counters import Counters
from taskobs.relay.storage.items import Item, Stored, weight
from taskobs.relay.storage.memory import MEMORY, MemoryStore
from taskobs.relay.storage.memory_queues import LOOSE, Block

MANY = 3_000
OWNER = object()


def long(number: int) -> Item:
    """A span of a kilobyte, as it came in a frame of that number."""
    payload = b"%d " % number * (1024 // len(b"%d " % number))
    return Item("span", payload, b"about %d" % (number % 3), (OWNER, number))


def filled(*, limit: int = MEMORY) -> tuple[MemoryStore, list[object]]:
    released: list[object] = []
    store = MemoryStore(Counters(), released.extend, limit=limit)
    for number in range(MANY):
        store.append([long(number)])
    return store, released


def test_what_waits_for_long_comes_out_as_it_was() -> None:
    """A backend is back after an hour, and gets all there is, in its order."""
    store, released = filled()
    assert store.pending("span").bytes < LOOSE * 2 < MANY * weight(long(MANY))
    found: list[Stored] = []
    while store.pending("span").items:
        batch = store.take("span", 100, LOOSE, 0)
        store.done(batch)
        found += batch
    assert [one.item for one in found] == [long(number) for number in range(MANY)]
    assert [one.id for one in found] == list(range(1, MANY + 1))
    assert released == [(OWNER, number) for number in range(MANY)]
    assert store.pending("span") == (0, 0)


def test_of_what_is_compressed_the_oldest_goes_first() -> None:
    """There is no more room: what is dropped is what came first, and what is left is in order."""
    store, released = filled(limit=LOOSE + LOOSE // 4)
    dropped = len(released)
    assert 0 < dropped < MANY
    assert released == [(OWNER, number) for number in range(dropped)]
    assert store.pending("span").items == MANY - dropped
    first = store.take("span", 1, LOOSE, 0)
    assert first[0].item == long(dropped)
    assert store.is_flushed(first[0].id - 1)
    assert not store.is_flushed(first[0].id)


def test_a_block_keeps_a_source_of_whatever_kind() -> None:
    """Nobody who waits for an answer is forgotten, nor is one told who did not ask."""
    sources: list[object] = [None, "a text", (OWNER, 7)]
    stored = [
        Stored(number, 5.0, Item("envelope", b"x" * number, b"about", source))
        for number, source in enumerate(sources, 1)
    ]
    assert Block(stored).unpack() == stored
