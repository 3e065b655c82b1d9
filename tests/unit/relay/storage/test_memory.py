"""What waits for long in the relay's memory is compressed, and takes what it is said to take."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from taskobs.relay.counters import Counters
from taskobs.relay.storage.items import Item, Stored, weight
from taskobs.relay.storage.memory import MEMORY, MemoryStore
from taskobs.relay.storage.memory_queues import LOOSE, Block
from tests.support.paths import ROOT

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


FILL = """
import os, time, uuid
from taskobs.relay.agent.connection import Connection
from taskobs.relay.counters import Counters
from taskobs.protocol.frames import pack
from taskobs.relay.storage.memory import MEMORY, MemoryStore
from taskobs.relay.storage.items import Item
import socket

connection = Connection(socket.socketpair()[0], 0.0)

def resident():
    with open("/proc/self/statm") as figures:
        return int(figures.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

def item(number):
    task = str(uuid.uuid4())
    attributes = {f"messaging.attribute.{n}": f"a value of its own {n}" for n in range(15)}
    attributes |= {"messaging.message.id": task, "celery.root_id": task}
    ids = [os.urandom(16), os.urandom(8), os.urandom(8)]
    span = pack(["run shop.pay", *ids, True, 1, "", 4, time.time_ns(), time.time_ns(), attributes])
    return Item("span", span, b"resource_blob", (connection, connection.arrived(settled=False)))

counters = Counters()
store = MemoryStore(counters)
item(0)
before = resident()
while not counters.total("dropped"):
    store.append([item(n) for n in range(20)])
said = store.pending("span")
print(resident() - before, said.bytes, said.items, MEMORY)
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="there is no /proc")
def test_a_full_store_takes_what_it_says() -> None:
    """I give the relay's container 60 MB, and an outage of an hour does not end it."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(FILL)],
        capture_output=True,
        check=True,
        text=True,
        timeout=120,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    took, said, items, limit = map(int, done.stdout.split())
    assert limit * 0.9 < said <= limit
    assert took < said * 1.3 + 1024 * 1024, done.stdout
    assert items > 15_000
