"""What backends of deltas have accepted, in the memory that outlives a relay."""

from __future__ import annotations

from contextlib import suppress
from threading import Lock
from typing import Protocol

from taskobs.protocol.frames import FrameError, pack, unpack


class AcceptedMemory(Protocol):
    """Outlives this process."""

    def note_exported(self, data: bytes) -> None:
        """Keep what a backend has accepted."""
        ...

    def exported(self) -> bytes | None:
        """Return what was kept last."""
        ...


class AcceptedSums:
    """Divides the memory among senders. Thread-safe."""

    def __init__(self, memory: AcceptedMemory) -> None:
        self._memory = memory
        self._lock = Lock()
        self._kept: dict[int, bytes] = {}
        found = memory.exported()
        with suppress(FrameError, TypeError, ValueError):  # of another release
            self._kept = {int(number): bytes(one) for number, one in unpack(found or b"")}

    def of(self, number: int) -> AcceptedMemory:
        """Return the part of one sender: that of the worker's own metrics is 0."""
        return _Part(self, number)

    def note(self, number: int, data: bytes) -> None:
        """Keep what a backend has accepted from one sender."""
        with self._lock:
            self._kept[number] = data
            self._memory.note_exported(pack([[n, one] for n, one in self._kept.items()]))

    def kept(self, number: int) -> bytes | None:
        """Return what was kept last of one sender."""
        return self._kept.get(number)


class _Part:
    def __init__(self, whole: AcceptedSums, number: int) -> None:
        self._whole, self._number = whole, number

    def note_exported(self, data: bytes) -> None:
        self._whole.note(self._number, data)

    def exported(self) -> bytes | None:
        return self._whole.kept(self._number)
