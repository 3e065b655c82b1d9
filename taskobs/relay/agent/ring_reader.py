"""Reads the slots of all processes in the memory that the relay shares with its worker."""

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
from taskobs.relay.agent.frame_counts import (
    KILLED_WRITING,
    MALFORMED,
    NOT_UNDERSTOOD,
    count_dropped,
    count_malformed,
)
from taskobs.relay.agent.router import FrameRouter
from taskobs.relay.agent.slot_reader import SlotReader, TornFrameError
from taskobs.relay.counters import Counters
from taskobs.relay.tracking.open_spans import OpenSpanRegistry
from taskobs.relay.tracking.process_state import Alive

_log: Final = logging.getLogger("taskobs.relay")
CHECK_INTERVAL: Final = 1.0
"""Interval, in seconds, for checking which processes are alive and which spans they have open."""
UNNAMED: Final = 10.0
"""Seconds in which a process that took a slot has to write its HELLO there."""


class RingReaders:
    """Reads all slots; without shared memory there are none. Not thread-safe."""

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
        """Processes whose slot can't be read: pid and ``pids.start_time`` by index."""
        self._due = 0.0

    @property
    def live(self) -> bool:
        """Whether a process may still write."""
        return any(not reader.ended for reader in self._readers.values())

    def read(self) -> None:
        """Read what was written since the last call."""
        if self._shared is None:
            return
        self._find(self._shared)
        for reader in self._readers.values():
            if not reader.ended:
                self._read(reader)

    def _read(self, reader: SlotReader) -> bool:
        """Read what was written; return whether something malformed was skipped."""
        self._announce(reader)  # first: the spans that follow go there
        try:
            for kind, payload in reader.frames():
                self._take(reader, kind, payload)
        except (FrameError, OSError) as error:
            kind = error.kind if isinstance(error, TornFrameError) else 0
            count_malformed(self._counters, reader.process, kind, error)
            return isinstance(error, FrameError)
        return False

    def _take(self, reader: SlotReader, kind: int, payload: bytes) -> None:
        try:
            self._router.written(reader, reader.process, kind, payload)
        except FrameError as error:
            count_malformed(self._counters, reader.process, kind, error)
        except Exception as error:  # noqa: BLE001  # one process's fault is not the others'
            _log.exception("taskobs relay: handling a frame failed")
            count_malformed(self._counters, reader.process, kind, error, NOT_UNDERSTOOD)

    def acknowledge(self) -> None:
        """Tell the processes which frames are safe, so that they may overwrite them."""
        for reader in self._readers.values():
            reader.acknowledge()

    def flush(self) -> None:
        """Have the next ``check`` look at all processes at once."""
        self._due = 0.0

    def check(self) -> None:
        """Once a second: check which processes have ended, and which spans are open for long."""
        shared, now = self._shared, self._clock()
        if shared is None or now < self._due:
            return
        self._due = now + CHECK_INTERVAL
        self._announce_again()
        for index, reader in list(self._readers.items()):
            if not reader.ended:
                self._check(reader)
            # Until then the next relay needs the slot, should this one be killed.
            elif reader.settled and reader.table.settled and not reader.process.open:
                del self._readers[index]
                shared.free(index)
        # A refused slot is its process's for as long as that may write to it.
        for index, (pid, started) in list(self._refused.items()):
            if not self._alive(pid, started):
                del self._refused[index]
                shared.free(index)

    def _check(self, reader: SlotReader) -> None:
        process = reader.process
        # Asked before the last read: what a process wrote before it ended is then all there.
        closed = reader.closed
        ended = closed or not self._alive(process.pid, process.started)
        if ended:
            reader.process_ended = True
            while self._read(reader):  # what it wrote last; again after each malformed frame
                pass
            count_dropped(self._counters, process, reader.deferred(), KILLED_WRITING)
        count_dropped(self._counters, process, reader.dropped())
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
                self._counters.dropped("destination", 1, MALFORMED, detail)

    def _announce_again(self) -> None:
        """Read all announcements anew if one is missing: of many processes, the oldest are lost."""
        routes = self._router.routes
        if routes.misses:
            routes.misses = False
            for reader in self._readers.values():
                reader.forget_destinations()
                self._announce(reader)

    # New processes.

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
        """Free a slot if its process died before it wrote its HELLO."""
        since = self._unnamed.setdefault(index, self._clock())
        if self._clock() - since > UNNAMED:
            taker = shared.read_word(index, shared_memory.TAKER)
            # 0: its start time isn't there yet. A reused id only keeps the slot for longer.
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
            return  # written before the pid, but not visible to this core yet; see ``RING_HEADER``
        try:
            process = self._router.joined(hello, pid, started)
        except FrameError as error:
            self._counters.dropped("slot", 1, MALFORMED, f"pid {pid}: {error}")
            self._refused[index] = pid, started
        else:
            self._readers[index] = reader = SlotReader(shared, index, process)
            self._announce(reader)
