"""Queues of items in memory, oldest first: one in all, or one for each destination.

Items that wait for long are compressed: they take a fifth of the memory for 2 µs of CPU each.
"""

from __future__ import annotations

import zlib
from array import array
from collections import deque
from collections.abc import Container, Sequence
from itertools import accumulate
from typing import Final, cast

from taskobs.relay.storage.items import SOURCE, Item, ItemKind, Stored, weight

LOOSE: Final = 1024 * 1024
"""Bytes of a queue that are not compressed; beyond, its oldest are."""
_BLOCK: Final = 128
_BLOCK_BYTES: Final = 128 * 1024
BESIDE: Final = 48 + SOURCE
"""About how many bytes an item takes beside its compressed payload."""
_LEVEL: Final = 1
"""The fastest level: spans share so many texts that higher ones save no more."""
_ALONE: Final = -1
Destinations = Container[bytes]


class Block:
    """A compressed batch of items of one kind, oldest first."""

    __slots__ = (
        "_compressed",
        "_ids",
        "_kind",
        "_lengths",
        "_numbers",
        "_process_of_span",
        "_resource_blobs",
        "since",
    )

    def __init__(self, stored: Sequence[Stored]) -> None:
        items = [one.item for one in stored]
        self.since = stored[0].since
        """When the oldest came; ``unpack`` gives all items this time."""
        self._kind: ItemKind = items[0].kind
        # Arrays, as an object for each number would take more than the compressed payload.
        self._ids = array("Q", [one.id for one in stored])
        self._lengths = array("I", [len(item.payload) for item in items])
        self._compressed = zlib.compress(b"".join([item.payload for item in items]), _LEVEL)
        self._resource_blobs = [item.resource_blob for item in items]
        sources = [_parted(item.source) for item in items]
        self._process_of_span = [process for process, _ in sources]
        self._numbers = array("q", [number for _, number in sources])

    def __len__(self) -> int:
        return len(self._ids)

    @property
    def first(self) -> int:
        """The id of the oldest."""
        return self._ids[0]

    @property
    def weight(self) -> int:
        """About how many bytes it takes."""
        return len(self._compressed) + len(self) * BESIDE

    def unpack(self) -> list[Stored]:
        """Return the items."""
        payloads = zlib.decompress(self._compressed)
        ends = accumulate(self._lengths)
        rows = zip(
            *(
                self._ids,
                self._lengths,
                ends,
                self._resource_blobs,
                self._process_of_span,
                self._numbers,
            ),
            strict=True,
        )
        return [
            Stored(
                number,
                self.since,
                Item(
                    self._kind,
                    payloads[end - length : end],
                    resource_blob,
                    process if position == _ALONE else (process, position),
                ),
            )
            for number, length, end, resource_blob, process, position in rows
        ]


def _parted(source: object) -> tuple[object, int]:
    """Split a source into its object and the number of a frame, to store them without a tuple."""
    if isinstance(source, tuple):
        process, number = cast("tuple[object, int]", source)
        return process, number
    return source, _ALONE


class Queue:
    """Items of one kind, oldest first: unpacked at both ends, compressed blocks in between."""

    def __init__(self) -> None:
        self._front: deque[Stored] = deque()
        """Unpacked items of a former block, which are taken next."""
        self._blocks: deque[Block] = deque()
        self._back: deque[Stored] = deque()
        self._back_bytes = 0
        self._length = 0
        self.bytes = 0
        """About how many bytes all of it takes."""

    def __len__(self) -> int:
        return self._length

    @property
    def first(self) -> int | None:
        """The id of the oldest."""
        if self._blocks and not self._front:
            return self._blocks[0].first
        one = self.peek()
        return None if one is None else one.id

    def put(self, one: Stored) -> None:
        """Add the newest item."""
        self._back.append(one)
        size = weight(one.item)
        self._back_bytes += size
        self._length += 1
        self.bytes += size
        if self._back_bytes > LOOSE + _BLOCK_BYTES:
            self._compress()

    def peek(self) -> Stored | None:
        """Return the oldest item without taking it."""
        if self._blocks and not self._front:
            block = self._blocks.popleft()
            self._front.extend(block.unpack())
            self.bytes += sum(weight(one.item) for one in self._front) - block.weight
        for queue in (self._front, self._back):
            if queue:
                return queue[0]
        return None

    def get(self) -> Stored:
        """Take the oldest item; there has to be one."""
        self.peek()  # unpacks the oldest block: what is in ``_back`` is newer
        return self._forget(self._front.popleft() if self._front else self._from_back())

    def take(self, items: int, size: int) -> list[Stored]:
        """Take the oldest items: at most so many items and bytes, but at least one."""
        batch: list[Stored] = []
        while len(batch) < items and (one := self.peek()) is not None:
            size -= weight(one.item)
            if batch and size < 0:
                break
            batch.append(self.get())
        return batch

    def put_back(self, stored: Sequence[Stored]) -> None:
        """Return items that ``get`` gave: they are older than all that were never taken."""
        # Sorted, as several takers put back in any order, and ``first`` must be the oldest.
        self._front = deque(sorted([*self._front, *stored], key=lambda one: one.id))
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


class DestinationQueues:
    """A ``Queue`` for each ``resource_blob``, used as if it were one.

    ``take`` gives the oldest item whose destination is not in ``held``; all else includes what is
    on hold.
    """

    def __init__(self, held: Destinations = ()) -> None:
        self._held = held
        self._queues: dict[bytes, Queue] = {}

    def __len__(self) -> int:
        return sum(map(len, self._queues.values()))

    @property
    def bytes(self) -> int:
        """About how many bytes all of it takes."""
        return sum(queue.bytes for queue in self._queues.values())

    @property
    def first(self) -> int | None:
        """The id of the oldest."""
        return min((queue.first or 0 for queue in self._queues.values()), default=None)

    def put(self, one: Stored) -> None:
        """Add what is newest."""
        self._queues.setdefault(one.item.resource_blob, Queue()).put(one)

    def get(self) -> Stored:
        """Take what is oldest; there has to be something."""
        queue = self._oldest(())
        if queue is None:
            raise LookupError("nothing waits")
        [one] = queue.take(1, 0)
        self._remove_empty()
        return one

    def take(self, items: int, size: int) -> list[Stored]:
        """Take what is oldest and not on hold: at most so many items and bytes, one at least."""
        batch: list[Stored] = []
        while len(batch) < items and (queue := self._oldest(self._held)) is not None:
            found = queue.take(1, 0)
            size -= sum(weight(one.item) for one in found)
            if batch and size < 0:
                queue.put_back(found)
                break
            batch += found
            self._remove_empty()
        return batch

    def put_back(self, stored: Sequence[Stored]) -> None:
        """Add again what was taken: it is older than all that was never taken."""
        for one in stored:
            self._queues.setdefault(one.item.resource_blob, Queue()).put_back([one])

    def drop(self) -> list[Stored]:
        """Take what is oldest: one, or as many as are compressed together."""
        queue = self._oldest(())
        dropped = queue.drop() if queue is not None else []
        self._remove_empty()
        return dropped

    def _oldest(self, but: Destinations) -> Queue | None:
        queues = [queue for name, queue in self._queues.items() if name not in but]
        return min(queues, key=lambda queue: queue.first or 0, default=None)

    def _remove_empty(self) -> None:
        for name in [name for name, queue in self._queues.items() if not len(queue)]:
            del self._queues[name]
