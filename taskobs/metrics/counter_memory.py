"""Counters that pool children write and the worker's main process reads, in memory they share.

Each child has a region of its own, with its cumulative sums. A sum is one aligned word, so a child
that is killed has either counted or not. The main process adds a dead child's sums to its own and
frees the region, each once: it is the only one that does. So nothing depends on the relay.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from threading import RLock
from typing import Final

from taskobs.internal import pids
from taskobs.metrics.counter_keys import Key, overflow_of, packed, without_room
from taskobs.metrics.reader_table import TABLE, ReaderTable

REGIONS: Final = 1_024
"""Processes that can count at a time."""
PAGE: Final = 64 * 1024
"""All offsets are multiples of this: the largest page size that Linux has."""
WORDS: Final = 16_384
"""64-bit words of a region: four of its head, then sums."""
KEYS_AT: Final = WORDS * 8
KEYS: Final = 4 * PAGE
"""Bytes of a region for what its sums are of."""
LAST_WORDS: Final = 1_024
LAST_KEYS: Final = PAGE // 2
"""What of the two is left for what is counted under the keys of `overflow_of`."""
LAST_SUMS: Final = 512
MAX_KEYS: Final = 4_096
"""Sums of all processes, dead and alive; what is beyond is added to those of `overflow_of`."""
REGION: Final = KEYS_AT + KEYS
TABLE_AT: Final = PAGE
REGIONS_AT: Final = TABLE_AT + TABLE

# The head of a region.
_PID: Final = 0
_STARTED: Final = 1
_KEYS_USED: Final = 2
"""Bytes of keys that are complete. Written last, so that a reader finds the keys before it."""
_HEAD: Final = 4
_LONGEST: Final = 16_384
"""Bytes of a key."""
_LENGTHS: Final = 4
"""Bytes before a key: its length, and the number of its words."""

Sums = dict[bytes, list[float]]
"""By key, as `counter_keys.packed` writes it."""


class CounterMemory:
    """Made by a worker's main process before it forks its pool.

    But for ``own``, not thread-safe.
    """

    def __init__(self, descriptor: int | None = None) -> None:
        """Raises ``OSError`` where there can be no such memory."""
        self._descriptor = _file() if descriptor is None else descriptor
        if descriptor is None:
            os.ftruncate(self._descriptor, REGIONS_AT + REGIONS * REGION)
        self.readers = ReaderTable(self._descriptor, TABLE_AT)
        """The app's own metric readers that some of the sums are for."""
        self._dead: Sums = {}
        self._counted_apart: set[bytes] = set()
        self.after_fork()

    def after_fork(self) -> None:
        """In a forked child: take a region of its own."""
        self._own: CounterRegion | None = None
        self._own_lock = RLock()
        self._is_taking = False

    @classmethod
    def of(cls, address: str) -> CounterMemory | None:
        """Return the memory of the process that has spawned this one; None if it has none."""
        pid, _, descriptor = address.partition(":")
        if pid != str(os.getppid()) or not descriptor.isdecimal():
            return None
        try:
            return cls(os.open(f"/proc/{pid}/fd/{descriptor}", os.O_RDWR | os.O_CLOEXEC))
        except OSError:
            return None

    @property
    def address(self) -> str:
        """What a spawned child finds it by."""
        return f"{os.getpid()}:{self._descriptor}"

    def own(self) -> CounterRegion | None:
        """Return the region of this process, which the first call takes; None if none is free.

        Raises:
            OSError: there is something wrong with the memory.
        """
        # The lock of ``take`` keeps other processes out, and not this one's threads: those that
        # count first at the same time would take one region twice.
        with self._own_lock:
            # In the middle of it, a signal's handler that counts goes without one.
            if self._own is None and not self._is_taking:
                self._is_taking = True
                try:
                    self._own = self.take()
                finally:
                    self._is_taking = False
            return self._own

    def take(self) -> CounterRegion | None:
        """Take a region, in a pool child; None if none is free.

        The lock is held for microseconds, and the kernel releases it if its holder dies.

        Raises:
            OSError: there is something wrong with the memory.
        """
        try:
            # Within: a time limit's signal may raise between the call and what follows it.
            fcntl.lockf(self._descriptor, fcntl.LOCK_EX, 1)
            index = os.pread(self._descriptor, REGIONS, 0).find(b"\0")
            if index < 0:
                return None
            region = CounterRegion(self._map(index))
            os.pwrite(self._descriptor, b"\1", index)
        finally:
            fcntl.lockf(self._descriptor, fcntl.LOCK_UN, 1)
        return region

    def sums(self) -> Sums:
        """Return the sums of all children, dead and alive, in the main process.

        Raises:
            OSError: there is something wrong with the memory.
        """
        found = {key: [*values] for key, values in self._dead.items()}
        for index, taken in enumerate(os.pread(self._descriptor, REGIONS, 0)):
            if taken:
                with self._map(index) as region:
                    self._add(region, index, found)
        return found

    def _add(self, region: mmap.mmap, index: int, found: Sums) -> None:
        with memoryview(region) as whole, whole[:KEYS_AT].cast("Q") as head:
            # In this order: what a process writes before its death is read after it.
            dead = not pids.alive(head[_PID], head[_STARTED])
            end = _HEAD
            for written, values in _read(whole):
                key = self._within_limit(written)
                end += len(values)
                if key is None:
                    continue
                _add(found, key, values)
                if dead:
                    _add(self._dead, key, values)
            if dead:
                head[_KEYS_USED] = 0
                whole[: end * 8] = bytes(end * 8)
        if dead:
            os.pwrite(self._descriptor, b"\0", index)  # last: from now on it may be taken

    def _within_limit(self, key: bytes) -> bytes | None:
        """Return the key to count under; None if even what is beyond the limit is too much."""
        # What was once seen by itself stays so: a sum that disappeared would look like a restart.
        apart = self._counted_apart
        if key not in apart and len(apart) >= MAX_KEYS:
            key = without_room(key)
            if key not in apart and len(apart) >= MAX_KEYS + LAST_SUMS:
                return None
        apart.add(key)
        return key

    def _map(self, index: int) -> mmap.mmap:
        return mmap.mmap(self._descriptor, REGION, offset=REGIONS_AT + index * REGION)

    def close(self) -> None:
        """Close the descriptor."""
        descriptor, self._descriptor = self._descriptor, -1
        with suppress(OSError):
            os.close(descriptor)


class CounterRegion:
    """The sums of one process, which any of its threads may add to."""

    def __init__(self, region: mmap.mmap) -> None:
        whole = memoryview(region)
        self._head = whole[:KEYS_AT].cast("Q")
        self._keys = whole[KEYS_AT:]
        self.words = whole[:KEYS_AT].cast("d")
        """Add with ``+=``, which is one step: see `Histogram`."""
        self._index: dict[Key, int] = {}
        self._used, self._free = 0, _HEAD
        self._lock = RLock()
        self._allocating = False
        self._head[_STARTED] = pids.start_time(os.getpid())
        self._head[_PID] = os.getpid()

    def add(self, key: Key, number: float = 1) -> None:
        """Add to a sum, or to that of ``overflow_of`` the key if there is no room for it."""
        index = self._index.get(key) or self.allocate(key)
        index = index or self.allocate(overflow_of(key), last=True)
        if index:
            self.words[index] += number

    def find(self, key: Key) -> int:
        """Return the index of the first word of a key; 0 if there is none yet."""
        return self._index.get(key, 0)

    def allocate(self, key: Key, words: int = 1, *, last: bool = False) -> int:
        """Return the index of the first word of a key; 0 if there is no room.

        ``last``: also if what is left is needed for that.
        """
        # Not `acquire` and `try`: a time limit's signal may raise between the two.
        with self._lock:
            if self._allocating:  # a signal's handler measures, and what it interrupts is here
                return 0
            self._allocating = True
            try:
                found = self._index.get(key)
                return self._allocate(key, words, last=last) if found is None else found
            finally:
                self._allocating = False

    def _allocate(self, key: Key, words: int, *, last: bool) -> int:
        text = packed(key)
        at, index = self._used, self._free
        end, free = at + _LENGTHS + len(text), index + words
        room = (KEYS, WORDS) if last else (KEYS - LAST_KEYS, WORDS - LAST_WORDS)
        if end > room[0] or free > room[1] or len(text) > _LONGEST:
            return 0
        head = len(text).to_bytes(2, "little") + words.to_bytes(2, "little")
        self._keys[at:end] = head + text
        # In this order: if a time limit's signal raises in between, the key stands there with sums
        # of 0, and is written once more.
        self._used, self._free = end, free
        self._head[_KEYS_USED] = end
        self._index[key] = index
        return index


def _read(whole: memoryview) -> Iterator[tuple[bytes, list[float]]]:
    """Yield the keys of a region and their sums; what is malformed ends it."""
    used = min(whole[:KEYS_AT].cast("Q")[_KEYS_USED], KEYS)
    keys, words = bytes(whole[KEYS_AT : KEYS_AT + used]), whole[:KEYS_AT].cast("d")
    at, index = 0, _HEAD
    while at + _LENGTHS <= used:
        length = int.from_bytes(keys[at : at + 2], "little")
        count = int.from_bytes(keys[at + 2 : at + _LENGTHS], "little")
        at += _LENGTHS + length
        if at > used or index + count > WORDS:
            return
        yield keys[at - length : at], [*words[index : index + count]]
        index += count


def _add(sums: Sums, key: bytes, values: list[float]) -> None:
    before = sums.get(key)
    if before is None or len(before) != len(values):
        sums[key] = [*values]
    else:
        sums[key] = [a + b for a, b in zip(before, values, strict=True)]


def _file() -> int:
    """Return a file without a name, in memory where the system has such ones."""
    try:
        return os.memfd_create("taskobs-metrics", os.MFD_CLOEXEC)
    except AttributeError:
        with tempfile.TemporaryFile() as file:
            return os.dup(file.fileno())
