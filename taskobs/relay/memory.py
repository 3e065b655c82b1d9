"""The store in memory: within a bound, and for as long as the relay lives."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from typing import Final

from taskobs.relay.counters import Counters
from taskobs.relay.store import (
    KINDS,
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

MEMORY: Final = 32 * 1024 * 1024


class MemoryStore(Store):
    """Keeps items in memory, at most ``limit`` bytes; they end with the process."""

    durable = False

    def __init__(
        self, counters: Counters, released: Released = nobody, *, limit: int = MEMORY
    ) -> None:
        super().__init__(counters, released)
        self._limit = limit
        self._next = 1
        self._waiting: dict[ItemKind, deque[Stored]] = {kind: deque() for kind in KINDS}
        self._taken: dict[ItemKind, dict[int, Stored]] = {kind: {} for kind in KINDS}
        self._bytes: dict[ItemKind, int] = dict.fromkeys(KINDS, 0)
        """Of what waits untaken."""
        self._taken_bytes: dict[ItemKind, int] = dict.fromkeys(KINDS, 0)

    def append(
        self, items: Sequence[Item], starts: Sequence[Start] = (), ended: Sequence[bytes] = ()
    ) -> None:
        """Keep ``items``; drop the oldest of all for which there is no room."""
        del starts, ended  # they are in the ledger, and end with this process
        now = time.time()
        with self._lock:
            for item in items:
                self._waiting[item.kind].append(Stored(self._next, now, item))
                self._bytes[item.kind] += weight(item)
                self._next += 1
            dropped = self._make_room()
            self._wake()
        for kind in KINDS:
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
        self._release(stored)

    def pending(self, kind: ItemKind) -> Pending:
        """Count what waits, with what is being sent."""
        with self._lock:
            taken, waiting = self._taken[kind], self._waiting[kind]
            oldest = next(iter(taken.values()), waiting[0] if waiting else None)
            return Pending(
                len(taken) + len(waiting),
                self._bytes[kind] + self._taken_bytes[kind],
                oldest.since if oldest else None,
            )

    def _make_room(self) -> list[Stored]:
        dropped: list[Stored] = []
        while sum(self._bytes.values()) + sum(self._taken_bytes.values()) > self._limit:
            queues = [queue for queue in self._waiting.values() if queue]
            if not queues:
                break
            one = min(queues, key=lambda queue: queue[0].id).popleft()
            self._bytes[one.item.kind] -= weight(one.item)
            dropped.append(one)
        return dropped

    def _take(self, kind: ItemKind, max_items: int, max_bytes: int) -> list[Stored]:
        batch: list[Stored] = []
        waiting, size = self._waiting[kind], 0
        while waiting and len(batch) < max_items:
            size += weight(waiting[0].item)
            if batch and size > max_bytes:
                break
            one = waiting.popleft()
            batch.append(one)
            self._taken[kind][one.id] = one
            self._bytes[kind] -= weight(one.item)
            self._taken_bytes[kind] += weight(one.item)
        return batch

    def _untaken(self, kind: ItemKind) -> tuple[int, int]:
        return len(self._waiting[kind]), self._bytes[kind]

    def _first(self, kind: ItemKind, *, taken: bool) -> int | None:
        if taken and self._taken[kind]:
            return next(iter(self._taken[kind]))
        return self._waiting[kind][0].id if self._waiting[kind] else None

    def _last(self) -> int:
        return self._next - 1
