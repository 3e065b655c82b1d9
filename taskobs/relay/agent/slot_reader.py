"""Reading the slot of one process in the memory that it shares with the relay.

The process writes frames to the slot's ring and keeps a table of its open spans there.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from taskobs.protocol import shared_memory
from taskobs.protocol.frames import COUNTED, FrameError, FrameKind
from taskobs.protocol.ring import (
    MAX_PAYLOAD,
    RING_HEADER,
    frames_of,
    length_of,
    read_ring,
    stamp,
)
from taskobs.protocol.shared_memory import SharedMemory
from taskobs.relay.tracking.acknowledgements import Source
from taskobs.relay.tracking.process_state import ProcessState

KEEP: Final = 1024 * 1024
"""Bytes in a ring that may wait until they are safe; beyond, new frames get their room."""
STEP: Final = 256 * 1024
"""Bytes of a ring that are returned to the system in one go, once they are safe."""
READ: Final = 1024 * 1024
"""Bytes of a ring that are read in one go, unless a frame is longer."""
TORN: Final = 8
"""Reads after which a frame with a wrong checksum counts as malformed."""
MALFORMED: Final = 64
"""Malformed frames of one process that are skipped one by one; then all that follows is."""
_KINDS: Final = frozenset(map(int, FrameKind))
_MOST: Final = 1_000_000
"""Upper bound for a count that a process wrote: a faulty one may write any number."""


class TornFrameError(FrameError):
    """The checksum of a frame in a slot is wrong, and stays so; the frame is skipped."""

    def __init__(self, kind: int) -> None:
        super().__init__("a frame in a slot is not whole")
        self.kind = kind
        """What its header says; 0 if that is malformed too, and all that follows is skipped."""


class SlotReader(Source):
    """Reads the slot of one process."""

    def __init__(self, shared: SharedMemory, index: int, process: ProcessState) -> None:
        super().__init__()
        self.index, self.process = index, process
        self.ended = False
        """Its process will write no more, and everything that it wrote has been read."""
        self.process_ended = False
        """Its process will write no more: what is malformed now stays so."""
        self._shared = shared
        self._at = self._taking = self._released = shared.read_word(index, shared_memory.RELEASED)
        self._reusable = shared.read_word(index, shared_memory.REUSABLE)
        self._torn = self._malformed = self._destinations = 0
        self.table = OpenSpanTable(shared, index)

    def frames(self) -> Iterator[tuple[int, bytes]]:
        """Yield the frames that were written since the last call.

        Raises:
            TornFrameError: a frame is malformed; it is skipped.
            FrameError: the slot itself is malformed; what is there is skipped.
        """
        # Read once: a process that goes on writing must not keep the loop here.
        end = self._shared.read_word(self.index, shared_memory.WRITTEN)
        size = end - self._at
        if not 0 <= size <= shared_memory.RING:
            self._at = end
            raise FrameError("a slot's words are out of order")
        while self._at < end:
            before = self._at
            # A frame longer than READ yields nothing at first, and is read in a second attempt.
            for size in (READ, RING_HEADER.size + MAX_PAYLOAD):
                yield from self._frames(min(size, end - before))
                if self._at > before:
                    break
            else:
                break
        # A checksum may be wrong for an instant, see ``RING_HEADER``; it must not stay wrong.
        self._torn = self._torn + 1 if self._at < end else 0
        if self._torn > TORN or (self._torn and self.process_ended):
            self._torn = 0
            raise TornFrameError(self._skip(end))

    def _skip(self, end: int) -> int:
        """Skip a malformed frame; return its kind, or 0 if everything up to ``end`` is skipped."""
        self._malformed += 1
        after = self._at + RING_HEADER.size
        if after <= end and self._malformed <= MALFORMED:
            head = read_ring(self._shared, self.index, self._at, RING_HEADER.size)
            length, _, kind = RING_HEADER.unpack(head)
            after += length
            if kind in _KINDS and length <= MAX_PAYLOAD and after <= end:
                self._at = after
                return int(kind)
        self._at = end
        return 0

    def _frames(self, size: int) -> Iterator[tuple[int, bytes]]:
        """Yield the whole frames among the next bytes."""
        data = read_ring(self._shared, self.index, self._at, size)
        for kind, payload in frames_of(data, size):
            self._taking = self._at
            self._at += RING_HEADER.size + len(payload)
            self._torn = 0
            yield kind, payload

    def _number(self) -> int:
        return self._taking  # a position in the ring never comes again, and only grows

    def acknowledge(self) -> None:
        """Release what is safe, and what has waited beyond ``KEEP``."""
        first = self._first_unsettled()
        while first is not None and self._at - first > KEEP:
            self.forget(first)
            first = self._first_unsettled()
        safe = self._at if first is None else first
        if safe > self._released:
            self._released = safe
            self._shared.write_word(self.index, shared_memory.RELEASED, safe)
            self._discard(safe // STEP * STEP)

    def _discard(self, end: int) -> None:
        """Return what is safe to the system, in whole steps, and let it be overwritten then."""
        # In this order: the process may write there once it sees the word, and what it writes
        # must not be discarded.
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

    def dropped(self) -> dict[FrameKind, int]:
        """Return how many frames the process has dropped since the last call, of any relay."""
        return {kind: self._dropped_of(kind) for kind in COUNTED}

    def _dropped_of(self, kind: FrameKind) -> int:
        total = self._shared.read_word(self.index, shared_memory.DROPPED + kind)
        counted = self._shared.read_word(self.index, shared_memory.DROPPED_COUNTED + kind)
        if total <= counted:
            return 0
        self._shared.write_word(self.index, shared_memory.DROPPED_COUNTED + kind, total)
        return min(total - counted, _MOST)

    def deferred(self) -> dict[FrameKind, int]:
        """Return how many frames a dead process held in its own memory."""
        return {
            kind: min(self._shared.read_word(self.index, shared_memory.DEFERRED + kind), _MOST)
            for kind in COUNTED
        }

    def destinations(self) -> bytes | None:
        """Return what the process has announced; None if that has not changed."""
        word = self._shared.read_word(self.index, shared_memory.DESTINATIONS)
        if word == self._destinations:
            return None
        size = min(length_of(word), shared_memory.MAX_DESTINATIONS)
        found = self._shared.read(self.index, shared_memory.DESTINATIONS_AT, size)
        if stamp(found) != word:  # it is being written: read again at the next look
            return None
        self._destinations = word
        return found

    def forget_destinations(self) -> None:
        """Have the next ``destinations`` return them again."""
        self._destinations = 0

    @property
    def closed(self) -> bool:
        """Whether the process has closed the slot."""
        return bool(self._shared.read_word(self.index, shared_memory.CLOSED))


class OpenSpanTable(Source):
    """Reads which spans are open in one process.

    Lost spans stay in the table until their end is safe: the next relay finds them there, should
    this one be killed.
    """

    def __init__(self, shared: SharedMemory, index: int) -> None:
        super().__init__()
        self.process_ended = False
        """Its process will write no more."""
        self._shared, self._index = shared, index
        self._open: dict[int, int] = {}
        self._noted: dict[int, int] = {}
        self._table_index = 0

    def opened(self) -> Iterator[tuple[int, bytes]]:
        """Yield the open spans with their table indexes.

        Once the process has ended: all. Before: each once, when it was open at the last call too.
        """
        data = self._shared.read(
            self._index,
            shared_memory.OPEN_WORDS * shared_memory.WORD,
            shared_memory.OPEN * shared_memory.WORD,
        )
        # A word is a span's length and checksum, so an equal one means the same span. Spans that
        # end between two calls cost no more than this.
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
            if self.process_ended or (lasting and self._noted.get(table_index) != word):
                payload = self._payload(table_index, word)
                if payload is not None:
                    self._noted[table_index] = word
                    self._table_index = table_index
                    yield table_index, payload
        self._open = words

    def _number(self) -> int:
        return self._table_index

    def settle(self, number: int) -> None:
        """Note that a span has ended, or that its loss is safe."""
        super().settle(number)
        if self.process_ended and self.is_settled(
            number
        ):  # a word has one writer: before, that is the process
            self._shared.write_word(self._index, shared_memory.OPEN_WORDS + number, 0)

    def _payload(self, table_index: int, word: int) -> bytes | None:
        at = shared_memory.OPEN_AT + table_index * shared_memory.OPEN_BYTES
        payload = self._shared.read(self._index, at, min(length_of(word), shared_memory.OPEN_BYTES))
        return (
            payload if stamp(payload) == word else None
        )  # else the entry changed between the two reads: its span has ended
