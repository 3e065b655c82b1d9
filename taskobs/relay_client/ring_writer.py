"""Writes to a process's slot in the memory that it shares with the relay.

No call here waits and none makes a system call. Any thread, greenlet, signal handler or finalizer
may write, also while another one is in the middle of a write.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from typing import Final
from zlib import crc32

from taskobs.internal import pids
from taskobs.protocol import shared_memory
from taskobs.protocol.frames import COUNTED, KEY_BYTES, FrameKind
from taskobs.protocol.ring import (
    CRC_BITS,
    LOGS,
    LONG_FRAMES,
    MAX_PAYLOAD,
    RING_HEADER,
    SHORT,
    TELEMETRY,
    frames_of,
    read_ring,
    stamp,
)
from taskobs.protocol.shared_memory import (
    DROPPED,
    OPEN_AT,
    OPEN_BYTES,
    OPEN_WORDS,
    RELEASED,
    REUSABLE,
    RING,
    RING_AT,
    UNAVAILABLE,
    WRITTEN,
    SharedMemory,
)
from taskobs.relay_client.deferred_frames import DeferredFrames

WAKE_BYTES: Final = 128 * 1024
"""Bytes after which the relay is woken, as the ring may be full before its next tick."""
STUCK: Final = 5.0
"""Seconds without progress after which the write token is taken from its holder."""

_head: Final = RING_HEADER.pack
_COUNTED: Final = frozenset(int(kind) for kind in COUNTED)
_END: Final = int(FrameKind.END)
_FORGET: Final = int(FrameKind.FORGET)
_LOG: Final = int(FrameKind.LOG)
_RING_END: Final = RING_AT + RING
_WRITE_TOKEN: Final = "writer"  # noqa: S105  # a key of a dict


class RingWriter:
    """Writes frames to the slot's ring, and keeps the table of the process's open spans."""

    def __init__(
        self, shared: SharedMemory, index: int, hello: bytes, destinations: bytes = b""
    ) -> None:
        """Use a slot that was taken, and that nobody else has used since.

        Raises:
            OSError, ValueError: it can't be mapped, or ``hello`` is too long.
        """
        if len(hello) > shared_memory.MAX_HELLO:
            raise ValueError("the HELLO payload is too long")
        self._map = shared.map(index)
        self._words = words = memoryview(self._map)[
            : shared_memory.WORDS * shared_memory.WORD
        ].cast("Q")
        self._writer: dict[str, object] = {}
        self._deferred = DeferredFrames(words)
        self._progress = (0, 0.0)
        self._free = list(range(shared_memory.OPEN - 1, -1, -1))  # the last is used first
        self._table_indexes: dict[bytes, int] = {}
        self.wake_needed = False
        """So much was written that the relay should be woken; whoever does it resets this."""
        self._map[shared_memory.HELLO_AT : shared_memory.HELLO_AT + len(hello)] = hello
        words[shared_memory.HELLO] = stamp(hello)
        self.announce(destinations)
        words[shared_memory.STARTED] = pids.start_time(os.getpid())
        # Only ever set, never cleared here: the main process may be setting it at this moment.
        if shared.unavailable:
            words[UNAVAILABLE] = 1
        words[shared_memory.PID] = os.getpid()  # last: from now on the relay reads the slot

    @classmethod
    def take(
        cls, shared: SharedMemory, hello: bytes, destinations: bytes = b""
    ) -> RingWriter | None:
        """Take a slot for this process; None if there is none that can be used."""
        try:
            index = shared.take()
            return None if index is None else cls(shared, index, hello, destinations)
        except (OSError, ValueError):
            return None  # the relay frees a slot whose ``PID`` stays 0

    def announce(self, destinations: bytes) -> bool:
        """Write the packed list of destinations; False if it is too long."""
        # Two threads may mix theirs: the stamp is then wrong, and the relay reads none of it, until
        # the next one is written. It only delays what an earlier relay has left.
        at = shared_memory.DESTINATIONS_AT
        if len(destinations) > shared_memory.MAX_DESTINATIONS:
            return False
        if destinations:
            self._map[at : at + len(destinations)] = destinations
            self._words[shared_memory.DESTINATIONS] = stamp(destinations)
        return True

    @property
    def unavailable(self) -> bool:
        """Whether no relay will read this any more."""
        return bool(self._words[UNAVAILABLE])

    # The ring. One caller writes at a time: the one whose object is stored under _WRITE_TOKEN,
    # by a dict's ``setdefault``, which is atomic. A lock won't do: a soft time limit's signal
    # may raise between any two calls, so between a lock's ``acquire`` and the ``try`` after it,
    # and the lock would stay taken. Here ``finally`` sees by identity, and without a call, whether
    # the token is this caller's, wherever the signal came.

    def append(self, kind: int, payload: bytes) -> bool:
        """Write a frame.

        What finds no room is dropped and counted; of an END, a FORGET frame is written instead.
        False, and nothing is done, if no relay reads the ring any more.
        """
        writer = self._writer
        me = object()
        try:
            holder = writer.setdefault(_WRITE_TOKEN, me)
            if holder is not me:  # None: the slot is closed
                return holder is not None and self._defer(kind, payload)
            if self._words[UNAVAILABLE]:
                return False
            if not self._put(kind, payload, me):
                return self._defer(kind, payload)
        finally:
            if _WRITE_TOKEN in writer and writer[_WRITE_TOKEN] is me:
                del writer[_WRITE_TOKEN]
            # Only now that the token is free: what is deferred after this look finds it free too,
            # and is written by the caller that deferred it.
            if self._deferred:
                self._write_deferred()
        return True

    def _put(self, kind: int, payload: bytes, me: object) -> bool:
        """Write, as the holder of the token; False if it was taken from this caller meanwhile."""
        writer, words = self._writer, self._words
        length = len(payload)
        frame = _head(length, crc32(payload), kind) + payload
        size = len(frame)
        # No call is made from here to the word that publishes the frame, so no other thread and no
        # signal comes in between: what another caller has written since is never overwritten.
        at = words[WRITTEN]
        end = at + size
        limit = LONG_FRAMES if size > SHORT else TELEMETRY if kind != _FORGET else RING
        if kind == _LOG:
            limit = LOGS
        if end - words[REUSABLE] > limit or length > MAX_PAYLOAD:
            self._drop(kind, payload, me)
            return True
        # A caller that stood still until the token was taken from it must not publish.
        if _WRITE_TOKEN not in writer or writer[_WRITE_TOKEN] is not me:
            return False
        start = RING_AT + at % RING
        room = _RING_END - start
        if size <= room:
            self._map[start : start + size] = frame
        else:
            self._map[start : start + room] = frame[:room]
            self._map[RING_AT : RING_AT + size - room] = frame[room:]
        words[WRITTEN] = end  # publishes the frame, so only after all of it is there
        if end // WAKE_BYTES != at // WAKE_BYTES:
            self.wake_needed = True
        return True

    def _drop(self, kind: int, payload: bytes, me: object) -> None:
        """Count a frame that has no room; should it be an END, have the relay forget the span."""
        words = self._words
        if kind in _COUNTED:
            words[DROPPED + kind] += 1
        if kind == _END:
            key = payload[:KEY_BYTES]
            if not self._put(_FORGET, key, me):
                self._defer(_FORGET, key)

    def _defer(self, kind: int, payload: bytes) -> bool:
        """Leave a frame to the caller that writes now, which writes it when it is done."""
        self._deferred.defer(kind, payload)
        self._reclaim_token()
        return True

    def _write_deferred(self) -> None:
        # Again after each success: more may have been deferred before the token was released.
        while self._deferred and self._write_some_deferred():
            pass

    def _write_some_deferred(self) -> bool:
        """Write what is deferred; False if another caller writes, or no relay reads."""
        writer, deferred = self._writer, self._deferred
        me = object()
        try:
            if writer.setdefault(_WRITE_TOKEN, me) is not me or self._words[UNAVAILABLE]:
                return False
            while deferred:
                if not self._put(*deferred[0], me):
                    return False
                deferred.remove_first()  # after it is written: an exception in between doubles it
        finally:
            if _WRITE_TOKEN in writer and writer[_WRITE_TOKEN] is me:
                del writer[_WRITE_TOKEN]
        return True

    def _reclaim_token(self) -> None:
        """Take the token from a writer that has made no progress for some seconds.

        Python 3.10 lets a signal's exception strike inside ``finally``, before the token is
        released. Should that writer go on all the same, ``append`` makes it give up.
        """
        written, since = self._progress
        now = time.monotonic()
        if written != self._words[WRITTEN] or not since:
            self._progress = (self._words[WRITTEN], now)
        elif now - since > STUCK:
            self._progress = (written, now)
            self._writer.clear()

    def unread(self) -> Iterator[tuple[int, bytes]]:
        """Yield the frames that no relay has acknowledged, for a process without one."""
        words = self._words
        at, end = words[RELEASED], words[WRITTEN]
        words[RELEASED] = end
        start = at % RING
        data = self._map[RING_AT + start : RING_AT + min(RING, start + end - at)]
        data += self._map[RING_AT : RING_AT + end - at - len(data)]
        yield from frames_of(data, end - at)
        while self._deferred:
            first = self._deferred[0]
            self._deferred.remove_first()
            yield first

    # The table of open spans.

    def opened(self, key: bytes, payload: bytes) -> bool:
        """Note an open span; False if it is too long, or too many are open."""
        if len(payload) > OPEN_BYTES:
            return False
        free, table_indexes = self._free, self._table_indexes
        try:
            # No call is made here, nor where ``closed`` does the reverse: neither a thread switch
            # nor a signal comes in between, so an entry is either free or a span's.
            table_index = free[-1]
            del free[-1]
            table_indexes[key] = table_index
        except IndexError:
            return False
        start = OPEN_AT + table_index * OPEN_BYTES
        self._map[start : start + len(payload)] = payload
        # The entry's stamp, after its payload: from now on the entry is read.
        self._words[OPEN_WORDS + table_index] = len(payload) << CRC_BITS | crc32(payload)
        return True

    def closed(self, key: bytes) -> bool:
        """Note that a span has ended, once its END is written; False if it isn't in the table.

        It may be called again after an exception from outside cut it short.
        """
        free, table_indexes = self._free, self._table_indexes
        table_index = table_indexes.get(key)
        if table_index is None:
            return False
        self._words[OPEN_WORDS + table_index] = 0
        freed = [table_index]
        if key in table_indexes:  # another thread may have closed it meanwhile
            del table_indexes[key]
            free += freed
        return True

    # Closing.

    def close(self) -> None:
        """Close the slot: the relay reads what is there, and frees it."""
        # Nobody gets the token any more: the slot will be another process's.
        self._writer[_WRITE_TOKEN] = None
        self._free.clear()
        self._table_indexes.clear()
        self._words[shared_memory.CLOSED] = 1


def orphaned_frames(shared: SharedMemory) -> Iterator[tuple[int, bytes]]:
    """Yield, once, the frames of dead processes that no relay will read."""
    for index in shared.taken():
        pid = shared.read_word(index, shared_memory.PID)
        started = shared.read_word(index, shared_memory.STARTED)
        if shared.read_word(index, shared_memory.CLOSED) or (pid and not pids.alive(pid, started)):
            at, end = shared.read_word(index, RELEASED), shared.read_word(index, WRITTEN)
            shared.write_word(index, RELEASED, end)
            size = min(end - at, RING)
            yield from frames_of(read_ring(shared, index, at, size), size)
