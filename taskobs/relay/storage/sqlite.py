"""The store on disk: what waits outlives the relay, its worker and an outage of any length.

One SQLite file for each worker, locked by the relay that uses it. What is committed survives a
kill of the process; the last commits may not survive a loss of power. While the file cannot be
written, memory serves.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import ClassVar, Final, NamedTuple

from taskobs.relay.counters import Counters
from taskobs.relay.storage import sqlite_schema as tables
from taskobs.relay.storage.base import OVERFLOW, TOO_OLD, Released, Store, nobody
from taskobs.relay.storage.items import ITEM_KINDS, Item, ItemKind, Pending, Start, Stored
from taskobs.relay.storage.spool_directory import private_directory
from taskobs.relay.storage.spool_files import SpoolFile, lock_one
from taskobs.relay.storage.spool_owner import Owner
from taskobs.relay.storage.sqlite_reader import SpoolReader
from taskobs.relay.storage.sqlite_writes import Writes
from taskobs.relay.storage.take_over import AbandonedSpools

_log = logging.getLogger("taskobs.relay")
BYTES: Final = 256 * 1024 * 1024
AGE: Final = 86_400.0
DAMAGED: Final = "the spool was damaged"
_PAUSE: Final = 1.0


class SpoolConfig(NamedTuple):
    """Where a spool is, and how much it may keep."""

    directory: Path
    worker: str
    """The name of the worker, of which the file's is made."""
    bytes: int = BYTES
    """About; the file can be a third larger."""
    age: float = AGE
    """Seconds after which what waits is given up."""
    worker_pid: int | None = None
    """The process id of the worker; None for this process's parent."""


class Spool(Store):
    """Keeps items in an SQLite file.

    Raises ``OSError`` or ``sqlite3.Error`` when the directory cannot be used. What workers that
    are no more have left there is taken over, now and later.
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
        self.age = config.age
        self._limit = config.bytes
        self._owner = Owner.of(config.worker_pid or os.getppid())
        self._abandoned = AbandonedSpools(self._owner, clock)
        self._writes = Writes(counters, self._wrote, self._held)
        self._inherited: list[Start] = []
        directory = private_directory(config.directory)
        self._file: SpoolFile = lock_one(directory, config.worker, self._owner)
        try:
            self._open()
        except BaseException:
            self._file.unlock()
            raise
        with self._lock:
            self._maintain()
        self._inherited.clear()  # so far, ``starts`` gives them

    @property
    def path(self) -> Path:
        """The file in use."""
        return self._file.path

    def append(
        self, items: Sequence[Item], starts: Sequence[Start] = (), ended: Sequence[bytes] = ()
    ) -> None:
        """Commit all of it; what cannot be written now is kept in memory until it can."""
        if not (items or starts or ended):
            return
        with self._trying():
            self._writes.append(items, starts, ended)
            self._make_room()
            self._arrived(items)
        sources = [item.source for item in items if item.source is not None]
        if sources:
            self._released(sources)

    def start_del(self, keys: Sequence[bytes]) -> None:
        """Forget spans that are open no more, without remembering them as ended."""
        with self._trying():
            self._writes.delete_starts(keys)

    def starts(self) -> list[Start]:
        """Give the open spans that an earlier relay has kept."""
        with self._trying():
            return self._rows.starts()
        return []

    def inherited(self) -> list[Start]:
        """Give, once, the open spans of what was taken over since the start."""
        with self._lock:
            inherited, self._inherited = self._inherited, []
            return inherited

    def ended(self) -> list[bytes]:
        """Give the keys of the spans that have ended last, oldest first."""
        with self._trying():
            return self._rows.ended()
        return []

    def done(self, stored: Sequence[Stored]) -> None:
        """Forget what is out, or given up and counted."""
        with self._trying():
            taken = [self._reader.taken[one.item.kind].pop(one.id, None) for one in stored]
            self._writes.delete(one.id for one in taken if one is not None)

    def pending(self, kind: ItemKind) -> Pending:
        """Count what waits, with what is being sent."""
        with self._lock:
            count, size = self._untaken(kind)
            count += len(self._reader.taken[kind])
            size += self._reader.taken_bytes(kind)
            return Pending(count, size, self._reader.oldest(kind))

    def close(self) -> None:
        """Give nothing any more; what waits stays in the file, for the next relay."""
        super().close()
        with self._lock:
            if self._file.locked:
                self._writes.finish()
                with suppress(sqlite3.Error):
                    self._rows.close()
                self._file.unlock()

    # Opening, and what goes wrong.

    def _open(self) -> None:
        try:
            self._rows = self._writes.use(self.path)
        except (tables.NotASpoolError, sqlite3.Error) as error:
            if not tables.is_damage(error):
                raise
            self._set_aside(error)
            self._file.make()
            self._rows = self._writes.use(self.path)
        self._file.opened()
        self._reader = SpoolReader(self._rows, self._writes, self._held)

    def _wrote(self, stored: Sequence[Stored]) -> None:
        self._reader.add(stored)

    def _set_aside(self, error: Exception) -> None:
        aside = self._file.set_aside()
        _log.warning(
            "taskobs relay: %s is not a spool that can be used (%s); set aside as %s",
            *(self.path, error, aside.name),
        )

    @contextmanager
    def _trying(self) -> Generator[None]:
        """Hold the lock; note what goes wrong with the file, and go on."""
        with self._lock:
            try:
                yield
            except sqlite3.Error as error:
                self._trouble(error)
            self._wake()

    def _trouble(self, error: sqlite3.Error) -> None:
        """Go on with an empty file if this one is damaged; the disk's trouble may pass."""
        if self._closed or not tables.is_damage(error):
            return
        waited = dict(self._reader.count)
        with suppress(sqlite3.Error):
            self._rows.close()
        try:
            self._set_aside(error)
            self._file.make()
            self._open()
        except (OSError, sqlite3.Error) as worse:
            _log.warning("taskobs relay: no spool can be made in its place: %s", worse)
        for kind, number in waited.items():
            self._counters.dropped(kind, number, DAMAGED, str(error))

    # Keeping within the bounds. The lock is held.

    def _make_room(self) -> None:
        taken = sum(self._reader.taken_bytes(kind) for kind in ITEM_KINDS)
        excess = sum(self._reader.bytes.values()) + taken - self._limit
        if excess > 0:
            self._drop_oldest(OVERFLOW, excess)

    def _drop_oldest(self, reason: str, excess: float, before: float | None = None) -> None:
        """Drop what is untaken and oldest, at least ``excess`` bytes, or all ``before`` a time."""
        ids: list[int] = []
        with closing(self._rows.weights()) as rows:
            for number, kind, since, size in rows:
                if number in self._reader.taken[kind] or number in self._writes.sent:
                    continue
                if excess <= 0 or (before is not None and since >= before):
                    break
                ids.append(number)
                self._reader.count[kind] -= 1
                self._reader.bytes[kind] -= size
                self._counters.dropped(kind, 1, reason)
                excess -= size
        if ids:
            self._rows.remove(ids)

    def _maintain(self) -> None:
        """Give up what is too old, forget what nothing refers to, take over what others left."""
        try:
            with suppress(sqlite3.OperationalError):  # the disk is full still
                self._writes.catch_up()
                self._writes.delete(())
            if self.age is not None:
                self._drop_oldest(TOO_OLD, float("inf"), time.time() - self.age)
            self._rows.trim()
            if self._writes.behind:
                return  # what is taken over would be newer, and read first
            self._file.claim(self._owner)
        except (OSError, sqlite3.Error) as error:
            _log.warning("taskobs relay: trouble with the spool %s: %s", self.path, error)
            return
        for left in self._abandoned.find(self.path):
            self._try_to_take_over(left)

    def _try_to_take_over(self, left: SpoolFile) -> None:
        try:
            tables.connect(left.path).close()
            self._take_over(left)
        except (OSError, sqlite3.Error, tables.NotASpoolError) as error:
            if tables.is_damage(error):
                self._set_aside_left(left, error)
            else:
                self._abandoned.skip(left.path, error)

    def _take_over(self, left: SpoolFile) -> None:
        """Move what another worker's relay has left into our own file.

        Raises:
            OSError, sqlite3.Error: that can't be done, or the file can't be removed.
        """
        newest = self._writes.newest
        try:
            moved, starts = self._rows.take_over(left.path, newest)
        finally:
            # Also after an error: ids that are in the file must not be given again.
            self._reader.add_newer_than(newest)
        self._inherited += starts
        self._changed()
        if moved or starts:
            _log.info("taskobs relay: %d items taken over from %s", moved, left.path.name)
        left.remove()

    def _set_aside_left(self, left: SpoolFile, error: Exception) -> None:
        try:
            aside = left.set_aside()
        except OSError as refused:
            self._abandoned.skip(left.path, refused)
        else:
            _log.warning("taskobs relay: %s is set aside as %s: %s", left.path, aside.name, error)

    # Reading. The lock is held.

    def _take(self, kind: ItemKind, max_items: int, max_bytes: int) -> list[Stored]:
        try:
            return self._reader.take(kind, max_items, max_bytes)
        except sqlite3.Error as error:
            self._trouble(error)
            self._changes += 1  # so that the caller tries again, also if something is on hold
            batch = self._reader.take_unwritten(kind, max_items, max_bytes)
            if not batch and not self._closed:
                self._ready[kind].wait(_PAUSE)
            return batch

    def _put_back(self, stored: Sequence[Stored]) -> None:
        try:
            self._reader.put_back(stored)
        except sqlite3.Error as error:
            self._trouble(error)

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
