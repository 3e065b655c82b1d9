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
from threading import Lock
from typing import Final

from taskobs.internal import pids
from taskobs.protocol.frames import FrameError, pack, unpack

REGIONS: Final = 1_024
"""Processes that can count at a time."""
PAGE: Final = 64 * 1024
"""All offsets are multiples of this: the largest page size that Linux has."""
WORDS: Final = 8_192
"""64-bit words of a region: four of its head, then sums."""
KEYS_AT: Final = WORDS * 8
KEYS: Final = 3 * PAGE
"""Bytes of a region for what its sums are of."""
REGION: Final = KEYS_AT + KEYS

# The head of a region.
_PID: Final = 0
_STARTED: Final = 1
_KEYS_USED: Final = 2
"""Bytes of keys that are complete. Written last, so that a reader finds the keys before it."""
_HEAD: Final = 4
_LENGTHS: Final = 4
"""Bytes before a key: its length, and the number of its words."""

Sums = dict[tuple[str, ...], list[float]]


class CounterMemory:
    """Made by a worker's main process before it forks its pool. Not thread-safe."""

    def __init__(self, descriptor: int | None = None) -> None:
        """Raises ``OSError`` where there can be no such memory."""
        self._descriptor = _file() if descriptor is None else descriptor
        if descriptor is None:
            os.ftruncate(self._descriptor, PAGE + REGIONS * REGION)
        self._dead: Sums = {}

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

    def take(self) -> CounterRegion | None:
        """Take a region, in a pool child; None if none is free.

        The lock is held for microseconds, and the kernel releases it if its holder dies.

        Raises:
            OSError: there is something wrong with the memory.
        """
        fcntl.lockf(self._descriptor, fcntl.LOCK_EX, 1)
        try:
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
            for key, values in _read(whole):
                _add(found, key, values)
                if dead:
                    _add(self._dead, key, values)
            if dead:
                head[_KEYS_USED] = 0
                whole[:KEYS_AT] = bytes(KEYS_AT)
        if dead:
            os.pwrite(self._descriptor, b"\0", index)  # last: from now on it may be taken

    def _map(self, index: int) -> mmap.mmap:
        return mmap.mmap(self._descriptor, REGION, offset=PAGE + index * REGION)

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
        self._index: dict[tuple[str, ...], int] = {}
        self._used, self._free = 0, _HEAD
        self._lock = Lock()
        self._head[_STARTED] = pids.start_time(os.getpid())
        self._head[_PID] = os.getpid()

    def add(self, key: tuple[str, ...], number: float = 1) -> bool:
        """Add to a sum; False if there is no room for it."""
        index = self._index.get(key) or self.allocate(key)
        if not index:
            return False
        self.words[index] += number
        return True

    def allocate(self, key: tuple[str, ...], words: int = 1) -> int:
        """Return the index of the first word of a key; 0 if there is no room."""
        with self._lock:
            found = self._index.get(key)
            if found is not None:
                return found
            packed = pack(key)
            end = self._used + _LENGTHS + len(packed)
            if end > KEYS or self._free + words > WORDS or len(packed) > PAGE // 2:
                return 0
            head = len(packed).to_bytes(2, "little") + words.to_bytes(2, "little")
            self._keys[self._used : end] = head + packed
            self._head[_KEYS_USED] = end
            index = self._index[key] = self._free
            self._used, self._free = end, self._free + words
            return index


def _read(whole: memoryview) -> Iterator[tuple[tuple[str, ...], list[float]]]:
    """Yield the keys of a region and their sums; what is malformed ends it."""
    used = min(whole[:KEYS_AT].cast("Q")[_KEYS_USED], KEYS)
    keys, words = bytes(whole[KEYS_AT : KEYS_AT + used]), whole[:KEYS_AT].cast("d")
    at, index = 0, _HEAD
    while at + _LENGTHS <= used:
        length = int.from_bytes(keys[at : at + 2], "little")
        count = int.from_bytes(keys[at + 2 : at + _LENGTHS], "little")
        at += _LENGTHS + length
        try:
            key = tuple(map(str, unpack(keys[at - length : at])))
        except (FrameError, TypeError):
            return
        if at > used or index + count > WORDS:
            return
        yield key, [*words[index : index + count]]
        index += count


def _add(sums: Sums, key: tuple[str, ...], values: list[float]) -> None:
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
