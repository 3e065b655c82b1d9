"""The relay's end of the memory that it shares with the processes of its worker."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from typing import Final

from taskobs.internal import pids
from taskobs.protocol import shared_memory
from taskobs.protocol.frames import FrameError
from taskobs.protocol.ring import (
    MAX_PAYLOAD,
    RING_HEADER,
    frames_of,
    length_of,
    read_ring,
    stamp,
)
from taskobs.protocol.shared_memory import SharedMemory
from taskobs.protocol.span_encoder import split
from taskobs.relay.agent.router import KILLED_WRITING, FrameRouter
from taskobs.relay.counters import Counters
from taskobs.relay.tracking.acknowledgements import Source
from taskobs.relay.tracking.open_spans import OpenSpanRegistry
from taskobs.relay.tracking.process_state import Alive, ProcessState

_log: Final = logging.getLogger("taskobs.relay")
KEEP: Final = 1024 * 1024
"""Bytes that may wait in a ring for being safe; beyond, room for new ones is more important."""
STEP: Final = 256 * 1024
"""Bytes of a ring that are returned to the system at once, when they are safe."""
READ: Final = 1024 * 1024
"""Bytes of a ring that are read at once, unless a frame is longer."""
WAKE: Final = 1.0
"""Seconds between two looks at whether processes live, and at what they have open."""
UNNAMED: Final = 10.0
"""Seconds in which whoever has taken a slot has to say who it is."""
TORN: Final = 8
"""Reads in which a frame has to be whole."""
_NO_FRAMES: Final = "malformed"
_MOST: Final = 1_000_000
"""Frames that are counted at once: a slot's words may hold anything."""


class Reader(Source):
    """Reads the slot of one process."""

    def __init__(self, shared: SharedMemory, index: int, process: ProcessState) -> None:
        super().__init__()
        self.index, self.process = index, process
        self.over = False
        """Its process will write no more, and all that it wrote has been read."""
        self._shared = shared
        self._at = self._taking = self._released = shared.read_word(index, shared_memory.RELEASED)
        self._reusable = shared.read_word(index, shared_memory.REUSABLE)
        self._torn = 0
        self.table = Table(shared, index)

    def frames(self) -> Iterator[tuple[int, bytes]]:
        """Give the frames that were written since the last call.

        Raises:
            FrameError: what was written is none; it is passed over.
        """
        end = self._shared.read_word(self.index, shared_memory.WRITTEN)
        size = end - self._at
        if not 0 <= size <= shared_memory.RING:
            self._at = end
            raise FrameError("a slot's words are out of order")
        while self._at < end:
            before = self._at
            for size in (READ, RING_HEADER.size + MAX_PAYLOAD):
                yield from self._frames(min(size, end - before))
                if self._at > before:
                    break
            else:
                break
        self._torn = self._torn + 1 if self._at < end else 0
        if self._torn > TORN:
            self._at, self._torn = end, 0
            raise FrameError("a frame in a slot is not whole")

    def _frames(self, size: int) -> Iterator[tuple[int, bytes]]:
        """Yield the whole frames among the next bytes."""
        data = read_ring(self._shared, self.index, self._at, size)
        for kind, payload in frames_of(data, size):
            self._taking = self._at
            self._at += RING_HEADER.size + len(payload)
            self._torn = 0
            yield kind, payload

    def _number(self) -> int:
        return self._taking

    def acknowledge(self) -> None:
        """Let what is safe be written over, and what has waited for that for too long."""
        first = self._first_unsettled()
        while first is not None and self._at - first > KEEP:
            self.settle(first)
            first = self._first_unsettled()
        safe = self._at if first is None else first
        if safe > self._released:
            self._released = safe
            self._shared.write_word(self.index, shared_memory.RELEASED, safe)
            self._discard(safe // STEP * STEP)

    def _discard(self, end: int) -> None:
        """Return what is safe to the system, in whole steps, and let it be overwritten then.

        In this order: the process may write there from the moment that it sees the word.
        """
        if end <= self._reusable:
            return
        start = self._reusable % shared_memory.RING
        first = min(end - self._reusable, shared_memory.RING - start)
        self._shared.discard(self.index, shared_memory.RING_AT + start, first)
        if first < end - self._reusable:
            rest = end - self._reusable - first
            self._shared.discard(self.index, shared_memory.RING_AT, rest)
        self._reusable = end
        self._shared.write_word(self.index, shared_memory.REUSABLE, end)

    def dropped(self) -> int:
        """Return how many frames the process has dropped since the last call, of any relay."""
        total = self._shared.read_word(self.index, shared_memory.DROPPED)
        counted = self._shared.read_word(self.index, shared_memory.DROPPED_COUNTED)
        if total <= counted:
            return 0
        self._shared.write_word(self.index, shared_memory.DROPPED_COUNTED, total)
        return min(total - counted, _MOST)

    def deferred(self) -> int:
        """Return how many frames a process, which is dead, held in its own memory."""
        return min(self._shared.read_word(self.index, shared_memory.DEFERRED), _MOST)

    @property
    def closed(self) -> bool:
        """Whether the process has said that it will write no more."""
        return bool(self._shared.read_word(self.index, shared_memory.CLOSED))


class Table(Source):
    """Reads which spans are open in one process.

    Those that are lost with it stand there until that is safe: another relay will find them, if
    this one is killed.
    """

    def __init__(self, shared: SharedMemory, index: int) -> None:
        super().__init__()
        self.over = False
        """Its process will write no more."""
        self._shared, self._index = shared, index
        self._open: dict[int, int] = {}
        self._noted: dict[int, int] = {}
        self._table_index = 0

    def opened(self) -> Iterator[tuple[int, bytes]]:
        """Give the spans that are open, with their places.

        All if it is ``over``, or else, each once, those that were open at the last call too.
        """
        data = self._shared.read(
            self._index,
            shared_memory.OPEN_WORDS * shared_memory.WORD,
            shared_memory.OPEN * shared_memory.WORD,
        )
        words = {
            table_index: word for table_index, word in enumerate(memoryview(data).cast("Q")) if word
        }
        self._noted = {
            table_index: word
            for table_index, word in self._noted.items()
            if words.get(table_index) == word
        }
        for table_index, word in words.items():
            lasting = self._open.get(table_index) == word
            if self.over or (lasting and self._noted.get(table_index) != word):
                payload = self._payload(table_index, word)
                if payload is not None:
                    self._noted[table_index] = word
                    self._table_index = table_index
                    yield table_index, payload
        self._open = words

    def _number(self) -> int:
        return self._table_index

    def settle(self, number: int) -> None:
        """Note that a span that was open has ended, or that its loss is safe."""
        super().settle(number)
        if self.over:  # else it is for the process to say so
            self._shared.write_word(self._index, shared_memory.OPEN_WORDS + number, 0)

    def _payload(self, table_index: int, word: int) -> bytes | None:
        at = shared_memory.OPEN_AT + table_index * shared_memory.OPEN_BYTES
        payload = self._shared.read(self._index, at, min(length_of(word), shared_memory.OPEN_BYTES))
        return payload if stamp(payload) == word else None  # else it has just ended


class RingReaders:
    """Reads all slots. Without memory that is shared, there are none. Not thread-safe."""

    def __init__(  # noqa: PLR0913  # what it reads goes to all of these
        self,
        shared: SharedMemory | None,
        *,
        router: FrameRouter,
        open_spans: OpenSpanRegistry,
        counters: Counters,
        clock: Callable[[], float] = time.monotonic,
        alive: Alive = pids.alive,
    ) -> None:
        self._shared = shared
        self._router, self._open_spans, self._counters = router, open_spans, counters
        self._clock, self._alive = clock, alive
        self._readers: dict[int, Reader] = {}
        self._unnamed: dict[int, float] = {}
        self._refused: dict[int, tuple[int, int]] = {}
        """Whose slot can't be read, by pid and ``pids.start_time``; it stays theirs."""
        self._due = 0.0

    @property
    def live(self) -> bool:
        """Whether there is a process that may still write."""
        return any(not reader.over for reader in self._readers.values())

    def read(self) -> None:
        """Take what has been written since the last time."""
        if self._shared is None:
            return
        self._find(self._shared)
        for reader in self._readers.values():
            if not reader.over:
                self._read(reader)

    def _read(self, reader: Reader) -> None:
        try:
            for kind, payload in reader.frames():
                self._take(reader, kind, payload)
        except (FrameError, OSError) as error:
            self._counters.dropped("frame", 1, _NO_FRAMES, f"pid {reader.process.pid}: {error}")

    def _take(self, reader: Reader, kind: int, payload: bytes) -> None:
        try:
            self._router.written(reader, reader.process, kind, payload)
        except FrameError as error:
            self._counters.dropped("frame", 1, _NO_FRAMES, f"pid {reader.process.pid}: {error}")
        except Exception as error:  # noqa: BLE001  # one process's trouble is not the others'
            _log.exception("taskobs relay: a frame could not be taken")
            self._counters.dropped("frame", 1, "not understood", repr(error))

    def acknowledge(self) -> None:
        """Tell the processes what is safe."""
        for reader in self._readers.values():
            reader.acknowledge()

    def flush(self) -> None:
        """Have the next ``look`` look."""
        self._due = 0.0

    def look(self) -> None:
        """Once a second: see who has ended, and what is open for long."""
        shared, now = self._shared, self._clock()
        if shared is None or now < self._due:
            return
        self._due = now + WAKE
        for index, reader in list(self._readers.items()):
            if not reader.over:
                self._look_at(reader)
            elif reader.settled and reader.table.settled and not reader.process.open:
                del self._readers[index]
                shared.free(index)
        for index, (pid, started) in list(self._refused.items()):
            if not self._alive(pid, started):
                del self._refused[index]
                shared.free(index)

    def _look_at(self, reader: Reader) -> None:
        process = reader.process
        closed = reader.closed
        ended = closed or not self._alive(process.pid, process.started)
        if ended:
            self._read(reader)  # what it wrote last
            self._router.not_written(process, reader.deferred(), KILLED_WRITING)
        self._router.not_written(process, reader.dropped())
        table = reader.table
        table.over = ended
        for table_index, payload in table.opened():
            if not self._open_spans.started(process, *split(payload), (table, table_index)):
                table.settle(table_index)
        if ended:
            reader.over = True
            process.closed_cleanly = process.closed_cleanly or closed
            self._open_spans.left(process)

    # Those that are new.

    def _find(self, shared: SharedMemory) -> None:
        for index in shared.taken():
            if index in self._readers or index in self._refused:
                continue
            pid = shared.read_word(index, shared_memory.PID)
            if pid:
                self._unnamed.pop(index, None)
                self._introduced(shared, index, pid)
            else:
                self._not_introduced(shared, index)

    def _not_introduced(self, shared: SharedMemory, index: int) -> None:
        """Free a slot if its process died before it said who it is."""
        since = self._unnamed.setdefault(index, self._clock())
        if self._clock() - since > UNNAMED:
            taker = shared.read_word(index, shared_memory.TAKER)
            if not taker or not self._alive(taker, 0):
                del self._unnamed[index]
                shared.free(index)

    def _introduced(self, shared: SharedMemory, index: int, pid: int) -> None:
        word = shared.read_word(index, shared_memory.HELLO)
        hello = shared.read(
            index, shared_memory.HELLO_AT, min(length_of(word), shared_memory.MAX_HELLO)
        )
        started = shared.read_word(index, shared_memory.STARTED)
        if stamp(hello) != word and self._alive(pid, started):
            return  # this core doesn't see yet what was written before the pid
        try:
            process = self._router.joined(hello, pid, started)
        except FrameError as error:
            self._counters.dropped("slot", 1, _NO_FRAMES, f"pid {pid}: {error}")
            self._refused[index] = pid, started
        else:
            self._readers[index] = Reader(shared, index, process)
