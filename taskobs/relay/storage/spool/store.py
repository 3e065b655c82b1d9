"""The store on disk: items outlive the relay, its worker, and long outages of a backend.

One SQLite file for each worker, locked by the relay that uses it. What is committed survives a
kill of the process; a power failure may lose the last commits. While the file can't be written,
or after somebody removed it, nothing is acknowledged, so the worker's processes keep it, too.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import ClassVar, Final, NamedTuple

from taskobs.protocol import spool_defaults
from taskobs.relay.counters import Counters
from taskobs.relay.storage.base import TOO_OLD, Released, Store, nobody
from taskobs.relay.storage.items import ITEM_KINDS, Item, ItemKind, Pending, Start, Stored
from taskobs.relay.storage.spool import schema as tables
from taskobs.relay.storage.spool.in_use import SpoolInUse
from taskobs.relay.storage.spool.limits import SpoolLimits
from taskobs.relay.storage.spool.reader import SpoolReader
from taskobs.relay.storage.spool.take_over import TakeOver
from taskobs.relay.storage.spool.unsafe_sources import UnsafeSources
from taskobs.relay.storage.spool.worker_process import WorkerProcess
from taskobs.relay.storage.spool.writes import Writes

_log = logging.getLogger("taskobs.relay")
DAMAGED: Final = "the spool was damaged"
REMOVED: Final = "the spool was removed"
_PAUSE: Final = 1.0


class SpoolConfig(NamedTuple):
    """Where a spool is, and how much it may keep."""

    directory: Path
    worker: str
    """The name of the worker, which the file is named after."""
    bytes: int = spool_defaults.BYTES
    """About; the file can be a third larger."""
    age: float = spool_defaults.AGE
    """Seconds after which an item is dropped."""
    worker_pid: int | None = None
    """The process id of the worker; None for this process's parent."""


class Spool(Store):
    """Keeps items in an SQLite file.

    Raises ``OSError`` or ``sqlite3.Error`` when the directory can't be used. What workers that
    have ended left there is taken over, now and later.
    """

    durable: ClassVar[bool] = True

    def __init__(
        self,
        counters: Counters,
        config: SpoolConfig,
        released: Released = nobody,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(counters, released)
        worker_process = WorkerProcess.of(config.worker_pid or os.getppid())
        longest = config.age / 2  # a clock that is wrong after a reboot must not empty it
        self._in_use = SpoolInUse(config.directory, config.worker, worker_process, longest, clock)
        self._take_over = TakeOver(worker_process, clock)
        self._sources = UnsafeSources()
        self._rows = rows = self._in_use.rows
        self._writes = Writes(counters, rows, self._wrote, self._sources.discard, self._held)
        self._reader = SpoolReader(self._rows, self._writes, self._held)
        self._limits = SpoolLimits(
            *(config.bytes, config.age, counters, rows, self._reader, self._writes)
        )
        self._bytes = config.bytes
        self._inherited: list[Start] = []
        with self._lock:
            self._maintain()
        self._inherited.clear()  # until now, ``starts`` gives them

    @property
    def path(self) -> Path:
        """The file in use."""
        return self._in_use.path

    @property
    def directory(self) -> Path:
        """Where it keeps its files."""
        return self.path.parent

    def append(
        self, items: Sequence[Item], starts: Sequence[Start] = (), ended: Sequence[bytes] = ()
    ) -> Sequence[object]:
        """Commit all of it; what can't be written now is kept in memory until it can."""
        if not (items or starts or ended):
            return ()
        with self._lock:
            with self._handling_errors():
                self._announce_clients(items)
                self._writes.append(items, starts, ended)
                self._limits.make_room()
                self._arrived(items)
            # After the commit, which also succeeds in a file that somebody has removed.
            return self._sources.take(safe=bool(self._sources) and self._in_use.is_intact())

    def announce(self, announcement: bytes) -> None:
        """Have envelopes sent that wait for this Sentry client, and those that come later.

        Raises:
            OverflowError: there are too many.
        """
        with self._lock, self._handling_errors():
            if self._reader.announce(announcement):
                self._maintain_at = 0.0  # what other workers have left may be for it, too
                self._changed()

    @property
    def parked(self) -> int:
        """How many envelopes wait for their Sentry client to be announced."""
        return self._reader.parked

    def share(self, parts: int) -> None:
        """Use at most one of so many equal parts of the room, from the next item on."""
        with self._lock:
            self._limits = self._limits._replace(bytes=self._bytes // parts)

    def is_too_old(self, stored: Stored) -> bool:
        """Tell whether an item is older than the spool keeps."""
        return stored.since < self._limits.oldest

    def check(self) -> None:
        """Look whether the file is still there; write it again if somebody removed it."""
        with self._lock:
            settled = self._sources.take(safe=self._in_use.is_intact())
        if settled:
            self._released(settled)

    def is_safe(self, mark: int) -> bool:
        """Tell whether all that was there when ``mark`` was made is on disk, or sent."""
        with self._lock:
            on_disk = self._in_use.is_intact() and not self._writes.behind
        return on_disk or self.is_flushed(mark)

    def start_del(self, keys: Sequence[bytes]) -> None:
        """Forget spans that are no longer open, without remembering them as ended."""
        with self._lock, self._handling_errors():
            self._writes.delete_starts(keys)

    def starts(self) -> list[Start]:
        """Return the open spans that an earlier relay has kept."""
        with self._lock, self._handling_errors():
            return self._rows.starts()
        return []

    def inherited(self) -> list[Start]:
        """Return, once, the open spans of what was taken over since the start."""
        with self._lock:
            inherited, self._inherited = self._inherited, []
            return inherited

    def ended(self) -> list[bytes]:
        """Return the keys of the spans that have ended last, oldest first."""
        with self._lock, self._handling_errors():
            return self._rows.ended()
        return []

    def done(self, stored: Sequence[Stored]) -> None:
        """Forget what was sent, or dropped and counted."""
        with self._lock:
            with self._handling_errors():
                taken = [self._reader.taken[one.item.kind].pop(one.id, None) for one in stored]
                self._writes.delete(one.id for one in taken if one is not None)
            self._sources.discard(one for one in taken if one is not None)
            settled = self._sources.take(safe=False)
        if settled:
            self._released(settled)

    def pending(self, kind: ItemKind) -> Pending:
        """Count what waits, with what is being sent."""
        with self._lock:
            count, size = self._untaken(kind)
            count += len(self._reader.taken[kind])
            size += self._reader.taken_bytes(kind)
            return Pending(count, size)

    def remove(self) -> None:
        """Close it, and delete its files."""
        super().close()
        with self._lock:
            self._in_use.discard()

    def close(self) -> None:
        """Give nothing any more; what waits stays in the file, for the next relay."""
        super().close()
        with self._lock:
            if self._in_use.closed:
                return
            intact = self._in_use.is_intact(at_last=True)
            self._writes.finish()
            with suppress(sqlite3.Error):
                self._rows.keep_clock()
            for kind in () if intact else ITEM_KINDS:
                waiting = self._reader.count[kind] + len(self._reader.taken[kind])
                self._counters.dropped(kind, waiting, REMOVED, str(self.path))
            self._in_use.close()

    # What goes wrong with the file. The lock is held.

    @contextmanager
    def _handling_errors(self) -> Generator[None]:
        try:
            yield
        except sqlite3.Error as error:
            self._handle(error)
        self._wake()

    def _handle(self, error: sqlite3.Error) -> None:
        """Replace the file if it is damaged; other errors, as a full disk, may pass."""
        if self._closed or not tables.is_damage(error):
            return
        waited = dict(self._reader.count)
        try:
            self._in_use.replace(error)
        except (OSError, sqlite3.Error) as worse:
            _log.warning("taskobs relay: replacing the damaged spool failed: %s", worse)
        self._writes.start_anew()
        self._reader.start_anew()
        for kind, number in waited.items():
            self._counters.dropped(kind, number, DAMAGED, str(error))

    def _announce_clients(self, items: Sequence[Item]) -> None:
        """Note the clients of envelopes that have just come: theirs is the word of a process."""
        for announcement in {one.resource_blob for one in items if one.kind == "envelope"}:
            with suppress(OverflowError):  # they have been announced, or are too many to be known
                self._reader.announce(announcement)

    def _wrote(self, stored: Sequence[Stored]) -> None:
        self._reader.add(stored)
        self._sources.add(stored)

    def _maintain(self) -> None:
        """Drop what is too old, delete unused rows, and take over abandoned spools."""
        try:
            with suppress(sqlite3.OperationalError):  # the disk is still full
                self._writes.catch_up()
                self._writes.delete(())
                self._reader.claim()
            self._limits.drop_too_old()
            self._rows.trim()
            self._rows.keep_clock()
            if self._writes.behind:
                return  # what is taken over would be newer, and read first
            self._in_use.claim()
        except (OSError, sqlite3.Error) as error:
            _log.warning("taskobs relay: maintaining the spool %s failed: %s", self.path, error)
            return
        found = self._take_over.run(self._rows, self._reader, self._limits.age)
        self._inherited += found.starts
        for kind, number in found.too_old.items():
            self._counters.dropped(kind, number, TOO_OLD)
        self._changed()

    # Reading. The lock is held.

    def _take(self, kind: ItemKind, max_items: int, max_bytes: int) -> list[Stored]:
        try:
            return self._reader.take(kind, max_items, max_bytes)
        except sqlite3.Error as error:
            self._handle(error)
            self._changes += 1  # so that the caller tries again, also if something is on hold
            batch = self._reader.take_unwritten(kind, max_items, max_bytes)
            if not batch and not self._closed:
                self._ready[kind].wait(_PAUSE)
            return batch

    def _put_back(self, stored: Sequence[Stored]) -> None:
        try:
            self._reader.put_back(stored)
        except sqlite3.Error as error:
            self._handle(error)

    def _hold_from(self, destination: bytes) -> int:
        del destination
        return self._reader.hold_from

    def _resume_from(self, first: int) -> None:
        self._reader.resume_from(first)

    def _untaken(self, kind: ItemKind) -> tuple[int, int]:
        return self._reader.untaken(kind)

    def _first(self, kind: ItemKind, *, taken: bool) -> int | None:
        return self._reader.first(kind, taken=taken)

    def _last(self) -> int:
        return self._writes.newest
