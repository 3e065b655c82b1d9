"""Writes that failed, as when the disk is full: kept in memory until they succeed."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Container, Iterable, Sequence
from typing import Final

from taskobs.relay.storage.items import ItemKind, Start, Stored
from taskobs.relay.storage.memory import MEMORY
from taskobs.relay.storage.memory_queues import DestinationQueues, Queue

AGAIN: Final = 5.0
"""Seconds between two attempts to write."""
_KEYS: Final = 50_000
_BATCH: Final = 256


class WriteBacklog:
    """Items, open spans and the keys of ended ones, in their order. Not thread-safe."""

    def __init__(self, limit: int = MEMORY, held: Container[bytes] = ()) -> None:
        self._limit = limit
        self._queues: dict[ItemKind, Queue | DestinationQueues] = {
            "span": Queue(),
            "envelope": DestinationQueues(held),
            "log": Queue(),
        }
        self.starts: dict[bytes, Start] = {}
        self.ended: deque[bytes] = deque(maxlen=_KEYS)  # as many as the file keeps
        self._due = 0.0

    def __bool__(self) -> bool:
        return bool(self.starts or self.ended or any(map(len, self._queues.values())))

    def __getitem__(self, kind: ItemKind) -> Queue | DestinationQueues:
        return self._queues[kind]

    @property
    def due(self) -> bool:
        """Whether the next attempt is due."""
        return time.monotonic() >= self._due

    def failed(self, *, wait: bool) -> None:
        """Note an attempt that failed; ``wait`` before the next one."""
        self._due = time.monotonic() + AGAIN if wait else 0.0

    def add(
        self, stored: Iterable[Stored], starts: Iterable[Start], ended: Iterable[bytes]
    ) -> list[Stored]:
        """Add newer items; return the oldest ones, for which there is no room any more."""
        for one in stored:
            self._queues[one.item.kind].put(one)
        self.starts.update((one.key, one) for one in starts)
        for key in ended:
            self.starts.pop(key, None)  # also if the file has it: ``ended`` deletes it there
            self.ended.append(key)
        dropped: list[Stored] = []
        while sum(queue.bytes for queue in self._queues.values()) > self._limit:
            dropped += self._oldest().drop()
        return dropped

    def take(self) -> list[Stored]:
        """Take some of the oldest items, to write them or to ``put_back``."""
        batch: list[Stored] = []
        while len(batch) < _BATCH and len(queue := self._oldest()):
            batch.append(queue.get())
        return batch

    def put_back(self, batch: Sequence[Stored]) -> None:
        """Return items that ``take`` gave."""
        for kind, queue in self._queues.items():
            queue.put_back([one for one in batch if one.item.kind == kind])

    def _oldest(self) -> Queue | DestinationQueues:
        """Return the queue of what is oldest; an empty one if all are."""
        full = [queue for queue in self._queues.values() if len(queue)]
        return min(full, key=lambda queue: queue.first or 0) if full else self._queues["span"]
