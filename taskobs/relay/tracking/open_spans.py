"""The open spans of each process, and which of them are lost because the process ended."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from typing import Final, NamedTuple

from taskobs.internal import pids
from taskobs.protocol.frames import FrameError
from taskobs.protocol.held_spans.marks import mark_of
from taskobs.relay.counters import DUPLICATE, LOST, Counters
from taskobs.relay.storage.items import Start
from taskobs.relay.tracking import lost_spans, process_state
from taskobs.relay.tracking.acknowledgements import Source
from taskobs.relay.tracking.change_log import ChangeLog
from taskobs.relay.tracking.process_state import Alive, ProcessState
from taskobs.relay.tracking.recent_keys import RecentKeys
from taskobs.relay.tracking.wall_clock import WallClock

OPEN_SPANS: Final = 10_000
OPEN_BYTES: Final = 4 * 1024 * 1024
"""Bounds for one process's open spans; beyond them, its oldest are forgotten."""
ALL_OPEN_BYTES: Final = 16 * 1024 * 1024
ENDED_KEYS: Final = 50_000
PROCESSES: Final = 1_024
"""Processes that are tracked; beyond, those that aren't connected are closed at once."""
_RESOURCES: Final = 64
OUTCOME_WITHIN: Final = 20.0
"""Seconds in which the main process may report how a run ended; billiard reports it after 10 s."""
VANISHED: Final = "the process ended without a word"
ENDED_OPEN: Final = "the process ended and left this open"
FORGOTTEN: Final = "too many are open in one process"


class Closed(NamedTuple):
    """A span that was lost, closed as if its process had ended it."""

    key: bytes
    packed: bytes
    resource_blob: bytes
    source: tuple[Source, int] | None = None
    """What to settle once it is sent; see ``ProcessState.sources``."""


class OpenSpanRegistry:
    """Registers open spans by process and the keys of ended ones, and finds lost spans.

    It reads no sockets and sends nothing. ``parent`` is the pid of the worker's main process.
    Not thread-safe.
    """

    def __init__(
        self,
        counters: Counters,
        *,
        parent: int,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], int] = time.time_ns,
        alive: Alive = pids.alive,
    ) -> None:
        self._counters = counters
        self._parent = parent
        self._clock, self._alive = clock, alive
        self._wall_clock = WallClock(clock, wall)
        self._processes: dict[tuple[bytes, int], ProcessState] = {}
        self._process_of_span: dict[bytes, ProcessState] = {}
        self._ended = RecentKeys(ENDED_KEYS)
        self._size = 0
        self.processes = 0
        """How many processes are connected."""
        self._resource_blobs: dict[bytes, bytes] = {}
        self.resource_blob: bytes | None = None
        """The resource of the main process; before that has connected, of another process."""
        self.change_log = ChangeLog()
        self.main_process_ended = False
        """No outcome of a run will be reported any more, so none is waited for."""

    @property
    def open(self) -> int:
        """How many spans are open."""
        return len(self._process_of_span)

    @property
    def waiting(self) -> bool:
        """Whether spans are open in a process that is not connected."""
        return any(one.left is not None and one.open for one in self._processes.values())

    # What clients report.

    def joined(
        self, client: bytes, pid: int, resource_blob: bytes, started: int = 0
    ) -> ProcessState:
        """Note a connection of a process, or its slot; return the state of that process.

        ``started`` is its ``pids.start_time``, or 0.
        """
        resource_blob = self._one_copy(resource_blob)
        found = self._processes.get((client, pid))
        if found is None:
            found = process_state.connected(client, pid, self._parent, resource_blob, started)
            self._processes[client, pid] = found
        found.resource_blob = resource_blob
        if self.resource_blob is None or pid == self._parent:
            self.resource_blob = resource_blob
        self.processes += not found.connections
        found.connections += 1
        found.closed_cleanly, found.left = False, None
        return found

    def _one_copy(self, resource_blob: bytes) -> bytes:
        """Return an equal resource that is held already: processes of a worker share theirs."""
        if len(self._resource_blobs) >= _RESOURCES:
            self._resource_blobs.clear()
        return self._resource_blobs.setdefault(resource_blob, resource_blob)

    def left(self, process: ProcessState) -> None:
        """Note the end of one of a process's connections."""
        process.connections -= 1
        # With the last one, and not before: a process may have a slot and a connection.
        if not process.connections:
            self.processes -= 1
            process.left, process.left_ns = self._clock(), None
            if not process.open:
                self._remove(process)

    def started(
        self,
        process: ProcessState,
        key: bytes,
        packed: bytes,
        source: tuple[Source, int] | None = None,
    ) -> bool:
        """Note an open span; False if it has ended, is another process's, or there is no room."""
        if key in self._ended or self._process_of_span.get(key, process) is not process:
            return False
        before = process.sources.get(key)
        if process.open.get(key) != packed:
            self._drop(key)
            self.change_log.opened(key)
            self._put(process, key, packed)
        if source is not None and key in process.open:
            process.sources[key] = source
        # Reported twice, by the ring and the table: the earlier report isn't needed any more.
        if before is not None and before != process.sources.get(key):
            before[0].settle(before[1])
        return source is None or key in process.open

    def _put(self, process: ProcessState, key: bytes, packed: bytes) -> None:
        self._process_of_span[key] = process
        self._size += process.put(key, packed)
        while len(process.open) > OPEN_SPANS or process.size > OPEN_BYTES:
            self._forget_oldest(process)
        while self._size > ALL_OPEN_BYTES:
            self._forget_oldest(max(self._processes.values(), key=lambda one: one.size))

    def ended(self, key: bytes, *, noted: bool = True) -> bool:
        """Note the end of a span; return False, and count it, if it had ended already.

        ``noted`` says that the next relay shall know it, too.
        """
        process = self._process_of_span.get(key)
        # Settled before ``_drop``, which removes the source.
        if process is not None and key in process.sources:
            source, number = process.sources[key]
            source.settle(number)
        self._drop(key)
        if key in self._ended:
            self._counters.add(DUPLICATE, "span")
            return False
        self._ended.add(key)
        if noted:
            self.change_log.ended(key)
        return True

    # Lost spans.

    def lost(self, *, final: bool = False) -> list[Closed]:
        """Close the open spans of ended processes, except runs whose outcome may still be reported.

        With ``final``: close all spans of all processes that aren't connected.
        """
        now = self._clock()
        self._wall_clock.observe()
        ended = [one for one in self._processes.values() if one.left is not None]
        flush = final or len(self._processes) > PROCESSES
        closed: list[Closed] = []
        for process in ended:
            if flush or process.has_ended(now, self._alive):
                closed += self._close(process, patient=not flush and self._awaited(process, now))
                if not process.open:
                    self._remove(process)
        return closed

    def _remove(self, process: ProcessState) -> None:
        self._processes.pop((process.client, process.pid), None)

    def _awaited(self, process: ProcessState, now: float) -> bool:
        """Return whether the main process may still report how this process's runs ended."""
        if self.main_process_ended or process.parent != self._parent or process.pid == self._parent:
            return False
        return now - (process.left or 0.0) < OUTCOME_WITHIN

    def _close(self, process: ProcessState, *, patient: bool) -> Iterator[Closed]:
        reason = ENDED_OPEN if process.closed_cleanly else VANISHED
        for key, packed in list(process.open.items()):
            if patient and lost_spans.is_open_run(packed):
                continue
            # Taken out first: ``ended`` would settle it now, and it isn't sent yet.
            source = process.sources.pop(key, None)
            # An END that arrives after this is a duplicate.
            self.ended(key, noted=mark_of(packed) is None)
            try:
                end_ns = self._end_of(process, packed)
                closed = lost_spans.closed(packed, end_ns, f"{reason} (pid {process.pid})")
            except FrameError as error:
                self._counters.dropped("span", 1, "malformed", str(error))
                continue
            self._counters.add(LOST, "span")
            yield Closed(key, closed, process.resource_blob, source)

    def _end_of(self, process: ProcessState, packed: bytes) -> int:
        if process.left_ns is not None:
            return process.left_ns
        return self._wall_clock.end_of(lost_spans.start_of(packed), process.left or 0.0)

    # What outlives this relay, if the store is durable.

    def restore(self, starts: Iterable[Start], ended: Iterable[bytes]) -> None:
        """Take over what an earlier relay stored: open spans, and the keys of ended ones."""
        # The keys first: they tell which of the spans have ended after they were stored.
        for key in ended:
            self._ended.add(key)
        for start in starts:
            process = self._restored(start)
            if process is None or start.key in self._ended or start.key in self._process_of_span:
                self.change_log.closed(start.key)
            else:
                self._put(process, start.key, start.payload)
        for process in self._processes.values():
            if process.parent != self._parent:  # its worker ended at an unknown time in the past
                process.left_ns = lost_spans.latest_start(process.open.values())

    def _restored(self, start: Start) -> ProcessState | None:
        try:
            found = process_state.restored(start.client, start.resource_blob, self._clock())
        except FrameError:
            return None
        return self._processes.setdefault((found.client, found.pid), found)

    def start(self, key: bytes) -> Start:
        """Return an open span as the store keeps it."""
        process = self._process_of_span[key]
        return Start(key, process.open[key], process.resource_blob, process.packed)

    def _drop(self, key: bytes) -> None:
        process = self._process_of_span.pop(key, None)
        if process is not None:
            self._size -= process.drop(key)
            self.change_log.closed(key)

    def _forget_oldest(self, process: ProcessState) -> None:
        key = next(iter(process.open))
        source = process.sources.get(key)
        self._drop(key)
        if source is not None:
            source[0].settle(source[1])
        self._counters.dropped("start", 1, FORGOTTEN, f"pid {process.pid}")
