"""The relay's end of the memory that it shares with the processes of its worker."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Final

from taskobs.internal import pids
from taskobs.protocol import shared_memory
from taskobs.protocol.frames import FrameError
from taskobs.protocol.ring import (
    length_of,
    stamp,
)
from taskobs.protocol.shared_memory import SharedMemory
from taskobs.protocol.span_encoder import split
from taskobs.relay.agent.router import KILLED_WRITING, FrameRouter
from taskobs.relay.agent.slot_reader import SlotReader
from taskobs.relay.counters import Counters
from taskobs.relay.tracking.open_spans import OpenSpanRegistry
from taskobs.relay.tracking.process_state import Alive

_log: Final = logging.getLogger("taskobs.relay")
WAKE: Final = 1.0
"""Seconds between two looks at whether processes live, and at what they have open."""
UNNAMED: Final = 10.0
"""Seconds in which whoever has taken a slot has to say who it is."""
_NO_FRAMES: Final = "malformed"


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
        self._readers: dict[int, SlotReader] = {}
        self._unnamed: dict[int, float] = {}
        self._refused: dict[int, tuple[int, int]] = {}
        """Whose slot can't be read, by pid and ``pids.start_time``; it stays theirs."""
        self._due = 0.0

    @property
    def live(self) -> bool:
        """Whether there is a process that may still write."""
        return any(not reader.ended for reader in self._readers.values())

    def read(self) -> None:
        """Take what has been written since the last time."""
        if self._shared is None:
            return
        self._find(self._shared)
        for reader in self._readers.values():
            if not reader.ended:
                self._read(reader)

    def _read(self, reader: SlotReader) -> None:
        try:
            for kind, payload in reader.frames():
                self._take(reader, kind, payload)
        except (FrameError, OSError) as error:
            self._counters.dropped("frame", 1, _NO_FRAMES, f"pid {reader.process.pid}: {error}")

    def _take(self, reader: SlotReader, kind: int, payload: bytes) -> None:
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
            if not reader.ended:
                self._look_at(reader)
            elif reader.settled and reader.table.settled and not reader.process.open:
                del self._readers[index]
                shared.free(index)
        for index, (pid, started) in list(self._refused.items()):
            if not self._alive(pid, started):
                del self._refused[index]
                shared.free(index)

    def _look_at(self, reader: SlotReader) -> None:
        process = reader.process
        closed = reader.closed
        ended = closed or not self._alive(process.pid, process.started)
        if ended:
            self._read(reader)  # what it wrote last
            self._router.not_written(process, reader.deferred(), KILLED_WRITING)
        self._router.not_written(process, reader.dropped())
        self._announce(reader)
        table = reader.table
        table.process_ended = ended
        for table_index, payload in table.opened():
            if not self._open_spans.started(process, *split(payload), (table, table_index)):
                table.settle(table_index)
        if ended:
            reader.ended = True
            process.closed_cleanly = process.closed_cleanly or closed
            self._open_spans.left(process)

    def _announce(self, reader: SlotReader) -> None:
        destinations = reader.destinations()
        if destinations is not None:
            try:
                self._router.announced(destinations)
            except FrameError as error:
                detail = f"pid {reader.process.pid}: {error}"
                self._counters.dropped("destination", 1, _NO_FRAMES, detail)

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
            self._readers[index] = reader = SlotReader(shared, index, process)
            self._announce(reader)
