"""A process's place in the memory that it shares with the relay: what it has to tell, written.

No call here waits, for anybody, and none makes a system call. Any thread, greenlet, signal
handler or finalizer may write, also in the midst of another one's write: that one fails then,
and goes over the socket.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Final
from zlib import crc32

from taskobs.internal import pids
from taskobs.protocol import shared_memory
from taskobs.protocol.frames import FrameKind
from taskobs.protocol.ring import CRC_BITS, MAX_PAYLOAD, RING_HEADER, stamp, unrolled
from taskobs.protocol.shared_memory import (
    OPEN_AT,
    OPEN_BYTES,
    OPEN_WORDS,
    RELEASED,
    RING,
    RING_AT,
    UNAVAILABLE,
    WRITTEN,
    SharedMemory,
)

RUN_METRIC: Final = int(FrameKind.RUN_METRIC)
BELL: Final = RING // 4
"""Bytes after which the relay is called, as it would come too late by itself."""

_head: Final = RING_HEADER.pack
_WRITE_TOKEN: Final = "writer"  # noqa: S105  # a key of a dict


class RingWriter:
    """What one process writes: frames in a ring, and which of its spans are open in a table."""

    def __init__(self, shared: SharedMemory, index: int, hello: bytes) -> None:
        """Use a slot that was taken, and that nobody else has used since.

        Raises:
            OSError, ValueError: it can't be mapped, or ``hello`` is too long.
        """
        if len(hello) > shared_memory.MAX_HELLO:
            raise ValueError("too long a greeting")
        self._map = shared.map(index)
        self._words = words = memoryview(self._map)[
            : shared_memory.WORDS * shared_memory.WORD
        ].cast("Q")
        self._writer: dict[str, object] = {}
        self._free = list(
            range(shared_memory.OPEN - 1, -1, -1)
        )  # the last first: few pages are touched
        self._table_indexes: dict[bytes, int] = {}
        self.written = b""
        """What was written last."""
        self.wake_needed = False
        """So much was written that the relay should come; whoever calls it resets this."""
        self._map[shared_memory.HELLO_AT : shared_memory.HELLO_AT + len(hello)] = hello
        words[shared_memory.HELLO] = stamp(hello)
        words[shared_memory.STARTED] = pids.start_time(os.getpid())
        if shared.unavailable:  # else it stays as it is: the parent may set it at this moment
            words[UNAVAILABLE] = 1
        words[shared_memory.PID] = os.getpid()  # last: from now on the relay reads it

    @classmethod
    def take(cls, shared: SharedMemory, hello: bytes) -> RingWriter | None:
        """Take a slot for this process; None if there is none that can be used."""
        try:
            index = shared.take()
            return None if index is None else cls(shared, index, hello)
        except (OSError, ValueError):
            return None  # the relay frees what was taken, but is nobody's

    @property
    def unavailable(self) -> bool:
        """Whether there is no relay that will ever read this."""
        return bool(self._words[UNAVAILABLE])

    # The ring.

    def append(self, kind: int, payload: bytes, run_metric: bytes | None = None) -> bool:
        """Write a frame, and a FACT with it if there is one: both or none.

        False if there is no room now, somebody is at it, or no relay reads it.
        """
        length = len(payload)
        writer, words = self._writer, self._words
        me = object()
        try:
            # Not a lock: see ``RelayClient._write``. Should an exception strike where it is still
            # held, all that this process has to tell goes over the socket.
            if length > MAX_PAYLOAD or writer.setdefault(_WRITE_TOKEN, me) is not me:
                return False
            frame = _head(length, crc32(payload), kind) + payload
            if run_metric is not None:
                frame += _head(len(run_metric), crc32(run_metric), RUN_METRIC) + run_metric
            at = words[WRITTEN]
            end = at + len(frame)
            if end - words[RELEASED] > RING or words[UNAVAILABLE]:
                return False
            self._put(at % RING, frame)
            words[WRITTEN] = end
            self.written = payload
            if end // BELL != at // BELL:
                self.wake_needed = True
        finally:
            if _WRITE_TOKEN in writer and writer[_WRITE_TOKEN] is me:
                del writer[_WRITE_TOKEN]
        return True

    def _put(self, at: int, frame: bytes) -> None:
        start, room = RING_AT + at, RING - at
        if len(frame) <= room:
            self._map[start : start + len(frame)] = frame
        else:
            self._map[start : start + room] = frame[:room]
            self._map[RING_AT : RING_AT + len(frame) - room] = frame[room:]

    def unread(self) -> Iterator[tuple[int, bytes]]:
        """Give the frames that are not known to be safe, for a process that has no relay."""
        words = self._words
        at, end = words[RELEASED], words[WRITTEN]
        words[RELEASED] = end
        return unrolled(self._map[RING_AT : RING_AT + RING], at, end)

    # The table of open spans.

    def opened(self, key: bytes, payload: bytes) -> bool:
        """Note an open span; False if it is too long, or too many are open."""
        if len(payload) > OPEN_BYTES:
            return False
        free, table_indexes = self._free, self._table_indexes
        try:
            # No call is made here, nor where ``closed`` does the reverse: no thread and no
            # exception from outside comes between, and a place is either free or a span's.
            table_index = free[-1]
            del free[-1]
            table_indexes[key] = table_index
        except IndexError:
            return False
        start = OPEN_AT + table_index * OPEN_BYTES
        self._map[start : start + len(payload)] = payload
        self._words[OPEN_WORDS + table_index] = len(payload) << CRC_BITS | crc32(
            payload
        )  # its stamp
        return True

    def closed(self, key: bytes) -> bool:
        """Note that a span has ended, once that has been told; False if it isn't in the table.

        Call it again when an exception has struck it.
        """
        free, table_indexes = self._free, self._table_indexes
        table_index = table_indexes.get(key)
        if table_index is None:
            return False
        self._words[OPEN_WORDS + table_index] = 0
        freed = [table_index]
        if key in table_indexes:  # by now it might be closed
            del table_indexes[key]
            free += freed
        return True

    # The end.

    def close(self) -> None:
        """Say that nothing more will come; the relay reads what is there, and frees the slot.

        What other threads still write goes over the socket: the slot will be another process's.
        """
        self._writer[_WRITE_TOKEN] = None
        self._free.clear()
        self._table_indexes.clear()
        self._words[shared_memory.CLOSED] = 1


def orphaned_frames(shared: SharedMemory) -> Iterator[tuple[int, bytes]]:
    """Give, once, what processes that have ended have told, where no relay will read it."""
    for index in shared.taken():
        pid, started = (
            shared.read_word(index, shared_memory.PID),
            shared.read_word(index, shared_memory.STARTED),
        )
        if shared.read_word(index, shared_memory.CLOSED) or (pid and not pids.alive(pid, started)):
            at, end = shared.read_word(index, RELEASED), shared.read_word(index, WRITTEN)
            shared.write_word(index, RELEASED, end)
            yield from unrolled(shared.read(index, RING_AT, RING), at, end)
