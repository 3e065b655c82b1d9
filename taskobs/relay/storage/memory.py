"""The store in memory: bounded, and lost when the relay ends."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from typing import Final, cast

from taskobs.relay.counters import Counters
from taskobs.relay.storage.base import OVERFLOW, Released, Store, nobody
from taskobs.relay.storage.items import ITEM_KINDS, Item, ItemKind, Pending, Start, Stored, weight
from taskobs.relay.storage.memory_queues import DestinationQueues, Queue

MEMORY: Final = 7 * 1024 * 1024
"""Bytes; with them, a relay stays below 60 MB. Some 24,000 spans of tasks fit."""
_PROCESS_BYTES: Final = 2_500
"""About how many bytes a process or a connection takes while items of it wait."""


class MemoryStore(Store):
    """Keeps items in memory, at most ``limit`` bytes."""

    durable = False

    def __init__(
        self, counters: Counters, released: Released = nobody, *, limit: int = MEMORY
    ) -> None:
        super().__init__(counters, released)
        self._limit = self._whole = limit
        self._next = 1
        self._queues: dict[ItemKind, Queue | DestinationQueues] = {
            "span": Queue(),
            "envelope": DestinationQueues(self._held),
            "log": Queue(),
        }
        self._taken: dict[ItemKind, dict[int, Stored]] = {kind: {} for kind in ITEM_KINDS}
        self._taken_bytes: dict[ItemKind, int] = dict.fromkeys(ITEM_KINDS, 0)
        self._shared: Counter[object] = Counter()
        """How many items refer to each resource and each source, which are counted once."""
        self._shared_bytes = 0

    def append(
        self, items: Sequence[Item], starts: Sequence[Start] = (), ended: Sequence[bytes] = ()
    ) -> Sequence[object]:
        """Keep ``items``; without room for all, drop the oldest ones."""
        del starts, ended  # the open-span registry has them, and they end with this process
        now = time.monotonic()
        with self._lock:
            for item in items:
                self._queues[item.kind].put(Stored(self._next, now, item))
                self._next += 1
                self._share(item)
            dropped = self._make_room()
            self._arrived(items)
        # Without the lock: counters have their own, and ``released`` may call anything.
        for kind in ITEM_KINDS:
            number = sum(one.item.kind == kind for one in dropped)
            self._counters.dropped(kind, number, OVERFLOW)
        self._release(dropped)
        return ()

    def done(self, stored: Sequence[Stored]) -> None:
        """Forget what is sent, or dropped and counted."""
        with self._lock:
            for one in stored:
                kind = one.item.kind
                if self._taken[kind].pop(one.id, None) is not None:
                    self._taken_bytes[kind] -= weight(one.item)
                    self._unshare(one.item)
        self._release(stored)

    def _put_back(self, stored: Sequence[Stored]) -> None:
        for one in stored:
            kind = one.item.kind
            if self._taken[kind].pop(one.id, None) is not None:
                self._taken_bytes[kind] -= weight(one.item)
                self._queues[kind].put_back([one])

    def share(self, parts: int) -> None:
        """Use at most one of so many equal parts of the room, from the next item on."""
        self._limit = self._whole // parts

    def pending(self, kind: ItemKind) -> Pending:
        """Count what waits, with what is being sent."""
        with self._lock:
            taken, waiting = self._taken[kind], self._queues[kind]
            size = self._taken_bytes[kind] + waiting.bytes
            return Pending(len(taken) + len(waiting), size)

    def _make_room(self) -> list[Stored]:
        dropped: list[Stored] = []
        while self._size() > self._limit:
            queues = [queue for queue in self._queues.values() if len(queue)]
            if not queues:
                break  # all that is left is being sent
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
        first = self._queues[kind].first
        if not taken or not self._taken[kind]:
            return first
        # The order in which items were taken says nothing: some were put back and taken again.
        oldest = min(self._taken[kind])
        return oldest if first is None else min(oldest, first)

    def _last(self) -> int:
        return self._next - 1


def _in_common(item: Item) -> tuple[tuple[object, int], ...]:
    """Return what an item shares with others, and about how many bytes each of these takes."""
    resource_blob = (item.resource_blob, len(item.resource_blob))
    source: object = item.source
    if isinstance(source, tuple):
        process, _ = cast("tuple[object, int]", source)
        return resource_blob, (process, _PROCESS_BYTES)
    return (resource_blob,)
