"""The store in memory: within a bound, and for as long as the relay lives."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Sequence
from typing import Final, cast

from taskobs.relay.counters import Counters
from taskobs.relay.storage.base import (
    ITEM_KINDS,
    OVERFLOW,
    Item,
    ItemKind,
    Pending,
    Released,
    Start,
    Store,
    Stored,
    nobody,
    weight,
)
from taskobs.relay.storage.memory_blocks import Block

MEMORY: Final = 7 * 1024 * 1024
"""Bytes; with them, a relay stays below 60 MB. Some 24,000 spans of tasks fit."""
LOOSE: Final = 1024 * 1024
"""Bytes of a kind that wait as they came; of what is beyond, the oldest is compressed."""
_BLOCK: Final = 128
_PROCESS_BYTES: Final = 2_500
"""What the relay keeps of a process or a connection as long as something of it waits, in bytes."""
_BLOCK_BYTES: Final = 128 * 1024


class MemoryStore(Store):
    """Keeps items in memory, at most ``limit`` bytes; they end with the process."""

    durable = False

    def __init__(
        self, counters: Counters, released: Released = nobody, *, limit: int = MEMORY
    ) -> None:
        super().__init__(counters, released)
        self._limit = limit
        self._next = 1
        self._queues = {kind: Queue() for kind in ITEM_KINDS}
        self._taken: dict[ItemKind, dict[int, Stored]] = {kind: {} for kind in ITEM_KINDS}
        self._taken_bytes: dict[ItemKind, int] = dict.fromkeys(ITEM_KINDS, 0)
        self._shared: Counter[object] = Counter()
        """What items have in common: whom they are from, and what these say of themselves."""
        self._shared_bytes = 0

    def append(
        self, items: Sequence[Item], starts: Sequence[Start] = (), ended: Sequence[bytes] = ()
    ) -> None:
        """Keep ``items``; drop the oldest of all for which there is no room."""
        del starts, ended  # they are in the ledger, and end with this process
        now = time.time()
        with self._lock:
            for item in items:
                self._queues[item.kind].put(Stored(self._next, now, item))
                self._next += 1
                self._share(item)
            dropped = self._make_room()
            self._wake()
        for kind in ITEM_KINDS:
            number = sum(one.item.kind == kind for one in dropped)
            self._counters.dropped(kind, number, OVERFLOW)
        self._release(dropped)

    def done(self, stored: Sequence[Stored]) -> None:
        """Forget what is out, or given up and counted."""
        with self._lock:
            for one in stored:
                kind = one.item.kind
                if self._taken[kind].pop(one.id, None) is not None:
                    self._taken_bytes[kind] -= weight(one.item)
                    self._unshare(one.item)
        self._release(stored)

    def pending(self, kind: ItemKind) -> Pending:
        """Count what waits, with what is being sent."""
        with self._lock:
            taken, waiting = self._taken[kind], self._queues[kind]
            oldest = next((one.since for one in taken.values()), waiting.since)
            return Pending(
                len(taken) + len(waiting), self._taken_bytes[kind] + waiting.bytes, oldest
            )

    def _make_room(self) -> list[Stored]:
        dropped: list[Stored] = []
        while self._size() > self._limit:
            queues = [queue for queue in self._queues.values() if len(queue)]
            if not queues:
                break
            oldest = min(queues, key=lambda queue: queue.first or 0).drop()
            for one in oldest:
                self._unshare(one.item)
            dropped += oldest
        return dropped

    def _size(self) -> int:
        waiting = sum(queue.bytes for queue in self._queues.values())
        return waiting + sum(self._taken_bytes.values()) + self._shared_bytes

    def _share(self, item: Item) -> None:
        for one, size in _in_common(item):
            self._shared[one] += 1
            if self._shared[one] == 1:
                self._shared_bytes += size

    def _unshare(self, item: Item) -> None:
        for one, size in _in_common(item):
            self._shared[one] -= 1
            if not self._shared[one]:
                del self._shared[one]
                self._shared_bytes -= size

    def _take(self, kind: ItemKind, max_items: int, max_bytes: int) -> list[Stored]:
        batch = self._queues[kind].take(max_items, max_bytes)
        self._taken[kind].update((one.id, one) for one in batch)
        self._taken_bytes[kind] += sum(weight(one.item) for one in batch)
        return batch

    def _untaken(self, kind: ItemKind) -> tuple[int, int]:
        return len(self._queues[kind]), self._queues[kind].bytes

    def _first(self, kind: ItemKind, *, taken: bool) -> int | None:
        if taken and self._taken[kind]:
            return next(iter(self._taken[kind]))
        return self._queues[kind].first

    def _last(self) -> int:
        return self._next - 1


def _in_common(item: Item) -> tuple[tuple[object, int], ...]:
    """Return what an item shares with others, and how many bytes it takes, about."""
    resource_blob = (item.resource_blob, len(item.resource_blob))
    source: object = item.source
    if isinstance(source, tuple):
        process, _ = cast("tuple[object, int]", source)
        return resource_blob, (process, _PROCESS_BYTES)
    return (resource_blob,)


class Queue:
    """Items of one kind, oldest first: a few as they came, and what is between in blocks."""

    def __init__(self) -> None:
        self._front: deque[Stored] = deque()
        """What was in a block, and is next."""
        self._blocks: deque[Block] = deque()
        self._back: deque[Stored] = deque()
        self._back_bytes = 0
        self._length = 0
        self.bytes = 0
        """What all of it takes, about."""

    def __len__(self) -> int:
        return self._length

    @property
    def first(self) -> int | None:
        """The id of the oldest."""
        if self._blocks and not self._front:
            return self._blocks[0].first
        one = self.peek()
        return None if one is None else one.id

    @property
    def since(self) -> float | None:
        """When the oldest came, in seconds since the epoch."""
        if self._blocks and not self._front:
            return self._blocks[0].since
        one = self.peek()
        return None if one is None else one.since

    def put(self, one: Stored) -> None:
        """Add what is newest."""
        self._back.append(one)
        size = weight(one.item)
        self._back_bytes += size
        self._length += 1
        self.bytes += size
        if self._back_bytes > LOOSE + _BLOCK_BYTES:
            self._compress()

    def peek(self) -> Stored | None:
        """Give what is oldest, and keep it."""
        if self._blocks and not self._front:
            block = self._blocks.popleft()
            self._front.extend(block.unpack())
            self.bytes += sum(weight(one.item) for one in self._front) - block.weight
        for queue in (self._front, self._back):
            if queue:
                return queue[0]
        return None

    def get(self) -> Stored:
        """Take what ``peek`` has given."""
        return self._forget(self._front.popleft() if self._front else self._from_back())

    def take(self, items: int, size: int) -> list[Stored]:
        """Take what is oldest: at most so many items and bytes, but one at least."""
        batch: list[Stored] = []
        while len(batch) < items and (one := self.peek()) is not None:
            size -= weight(one.item)
            if batch and size < 0:
                break
            batch.append(self.get())
        return batch

    def put_back(self, stored: Sequence[Stored]) -> None:
        """Add again, as what is oldest, what ``get`` has given last."""
        self._front.extendleft(reversed(stored))
        self._length += len(stored)
        self.bytes += sum(weight(one.item) for one in stored)

    def drop(self) -> list[Stored]:
        """Take what is oldest: one, or as many as are compressed together."""
        if not self._blocks or self._front:
            return [self.get()]
        block = self._blocks.popleft()
        self.bytes -= block.weight
        self._length -= len(block)
        return block.unpack()

    def _forget(self, one: Stored) -> Stored:
        self._length -= 1
        self.bytes -= weight(one.item)
        return one

    def _from_back(self) -> Stored:
        one = self._back.popleft()
        self._back_bytes -= weight(one.item)
        return one

    def _compress(self) -> None:
        stored: list[Stored] = []
        size = 0
        while self._back and len(stored) < _BLOCK and size < _BLOCK_BYTES:
            stored.append(self._from_back())
            size += weight(stored[-1].item)
        block = Block(stored)
        self._blocks.append(block)
        self.bytes += block.weight - size
