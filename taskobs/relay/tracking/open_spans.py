"""Which spans are open in which process, and which of them nobody will end."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from typing import Final, NamedTuple

from taskobs.internal import pids
from taskobs.protocol.frames import FrameError
from taskobs.relay.counters import DUPLICATE, LOST, Counters
from taskobs.relay.storage.base import Start
from taskobs.relay.tracking import lost_spans, process_state
from taskobs.relay.tracking.acknowledgements import Source
from taskobs.relay.tracking.change_log import Journal
from taskobs.relay.tracking.process_state import Alive, Process
from taskobs.relay.tracking.recent_keys import Recent

OPEN_SPANS: Final = 10_000
OPEN_BYTES: Final = 4 * 1024 * 1024
"""What one process may have open; beyond, its oldest spans are forgotten."""
ALL_OPEN_BYTES: Final = 16 * 1024 * 1024
ENDED_KEYS: Final = 50_000
PROCESSES: Final = 1_024
"""Processes that are known at a time; beyond, those that are not connected are closed at once."""
_ABOUTS: Final = 64
PARENTS_WORD: Final = 20.0
"""Seconds that the worker's parent gets to tell how a run ended; billiard tells it 10 s late."""
VANISHED: Final = "the process ended without a word"
ENDED_OPEN: Final = "the process ended and left this open"
FORGOTTEN: Final = "too many are open in one process"


class Closed(NamedTuple):
    """A span that was lost, closed as if its process had ended it."""

    packed: bytes
    about: bytes
    source: tuple[Source, int] | None = None
    """What to settle once it is out; see ``Process.sources``."""


class Ledger:
    """Open spans by process, the keys of those that have ended, and what was lost.

    It reads no sockets and sends nothing: the server tells it what came, and asks it what is
    ``lost``. ``parent`` is the pid of the worker's parent. Not thread-safe.
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
        self._clock, self._wall, self._alive = clock, wall, alive
        self._processes: dict[tuple[bytes, int], Process] = {}
        self._owners: dict[bytes, Process] = {}
        self._ended = Recent(ENDED_KEYS)
        self._size = 0
        self.processes = 0
        """How many processes are connected."""
        self._abouts: dict[bytes, bytes] = {}
        self.about: bytes | None = None
        """The resource of the worker's parent; as long as that is not known, another's of its."""
        self.journal = Journal()
        self.parent_gone = False
        """Nobody will tell any more how a run has ended, so none is waited for."""

    @property
    def open(self) -> int:
        """How many spans are open."""
        return len(self._owners)

    @property
    def waiting(self) -> bool:
        """Whether spans are open in a process that is not connected."""
        return any(one.left is not None and one.open for one in self._processes.values())

    # What the clients say.

    def joined(self, client: bytes, pid: int, about: bytes, started: int = 0) -> Process:
        """Note a connection of a process, or its slot; give what is known of it.

        ``started`` is its ``pids.start_time``, where that is known.
        """
        about = self._one_copy(about)
        found = self._processes.get((client, pid))
        if found is None:
            found = process_state.known(client, pid, self._parent, about, started)
            self._processes[client, pid] = found
        found.about = about
        if self.about is None or pid == self._parent:
            self.about = about
        self.processes += not found.connections
        found.connections += 1
        found.said_goodbye, found.left = False, None
        return found

    def _one_copy(self, about: bytes) -> bytes:
        """Return what an earlier process has said already, if it has said the same."""
        if len(self._abouts) >= _ABOUTS:
            self._abouts.clear()
        return self._abouts.setdefault(about, about)

    def left(self, owner: Process) -> None:
        """Note the end of one of a process's connections."""
        owner.connections -= 1
        if not owner.connections:
            self.processes -= 1
            owner.left, owner.left_ns = self._clock(), self._wall()
            if not owner.open:
                self._remove(owner)

    def started(
        self,
        owner: Process,
        key: bytes,
        packed: bytes,
        source: tuple[Source, int] | None = None,
    ) -> bool:
        """Note an open span; False, and left alone, if it has ended already or is another's."""
        if key in self._ended or self._owners.get(key, owner) is not owner:
            return False
        if owner.open.get(key) != packed:
            self._drop(key)
            self.journal.opened(key)
            self._put(owner, key, packed)
        if source is not None and key in owner.open:
            owner.sources[key] = source
        return True

    def _put(self, owner: Process, key: bytes, packed: bytes) -> None:
        self._owners[key] = owner
        self._size += owner.put(key, packed)
        while len(owner.open) > OPEN_SPANS or owner.size > OPEN_BYTES:
            self._forget_oldest(owner)
        while self._size > ALL_OPEN_BYTES:
            self._forget_oldest(max(self._processes.values(), key=lambda one: one.size))

    def ended(self, key: bytes) -> bool:
        """Note the end of a span; False, and counted, if it had ended already."""
        owner = self._owners.get(key)
        if owner is not None and key in owner.sources:
            source, number = owner.sources[key]
            source.settle(number)
        self._drop(key)
        if key in self._ended:
            self._counters.add(DUPLICATE, "span")
            return False
        self._ended.add(key)
        self.journal.ended(key)
        return True

    # What nobody says.

    def lost(self, *, final: bool = False) -> list[Closed]:
        """Close what was open in processes that have ended, but for runs that are waited for.

        With ``final``: all that is open in any process that is not connected.
        """
        now = self._clock()
        gone = [one for one in self._processes.values() if one.left is not None]
        hurry = final or len(self._processes) > PROCESSES
        closed: list[Closed] = []
        for owner in gone:
            if hurry or owner.over(now, self._alive):
                closed += self._close(owner, patient=not hurry and self._awaited(owner, now))
                if not owner.open:
                    self._remove(owner)
        return closed

    def _remove(self, owner: Process) -> None:
        self._processes.pop((owner.client, owner.pid), None)

    def _awaited(self, owner: Process, now: float) -> bool:
        """Whether the worker's parent may still tell how this process's runs have ended."""
        if self.parent_gone or owner.parent != self._parent or owner.pid == self._parent:
            return False
        return now - (owner.left or 0.0) < PARENTS_WORD

    def _close(self, owner: Process, *, patient: bool) -> Iterator[Closed]:
        reason = ENDED_OPEN if owner.said_goodbye else VANISHED
        for key, packed in list(owner.open.items()):
            if patient and lost_spans.is_open_run(packed):
                continue
            source = owner.sources.pop(key, None)
            self.ended(key)
            try:
                closed = lost_spans.closed(packed, owner.left_ns, f"{reason} (pid {owner.pid})")
            except FrameError as error:
                self._counters.dropped("span", 1, "malformed", str(error))
                continue
            self._counters.add(LOST, "span")
            yield Closed(closed, owner.about, source)

    # What outlives this relay, where the store is durable.

    def restore(self, starts: Iterable[Start], ended: Iterable[bytes]) -> None:
        """Take over what an earlier relay has kept: open spans, and keys that have ended."""
        for key in ended:
            self._ended.add(key)
        for start in starts:
            owner = self._restored(start)
            if owner is None or start.key in self._ended or start.key in self._owners:
                self.journal.closed(start.key)
            else:
                self._put(owner, start.key, start.payload)
        for owner in self._processes.values():
            if owner.parent != self._parent:  # of a worker that ended some time ago
                owner.left_ns = lost_spans.latest_start(owner.open.values())

    def _restored(self, start: Start) -> Process | None:
        try:
            found = process_state.restored(start.client, start.about, self._clock(), self._wall())
        except FrameError:
            return None
        return self._processes.setdefault((found.client, found.pid), found)

    def start(self, key: bytes) -> Start:
        """Give an open span as the store keeps it."""
        owner = self._owners[key]
        return Start(key, owner.open[key], owner.about, owner.packed)

    def _drop(self, key: bytes) -> None:
        owner = self._owners.pop(key, None)
        if owner is not None:
            self._size -= owner.drop(key)
            self.journal.closed(key)

    def _forget_oldest(self, owner: Process) -> None:
        self._drop(next(iter(owner.open)))
        self._counters.dropped("start", 1, FORGOTTEN, f"pid {owner.pid}")
