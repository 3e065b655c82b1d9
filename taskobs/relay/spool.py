"""The store on disk: what waits outlives the relay, its worker and an outage of any length.

One SQLite file for each worker, locked by the relay that uses it. What is committed survives a
kill of the process; the last commits may not survive a loss of power.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import time
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from hashlib import sha256
from pathlib import Path
from typing import ClassVar, Final, NamedTuple

from taskobs.relay import spool_tables as tables
from taskobs.relay.counters import SPOOLED, Counters
from taskobs.relay.memory import MemoryStore
from taskobs.relay.spool_files import SpoolFile, abandoned, lock_one, set_aside
from taskobs.relay.store import (
    KINDS,
    OVERFLOW,
    OVERHEAD,
    TOO_OLD,
    Item,
    ItemKind,
    Pending,
    Released,
    Start,
    Store,
    Stored,
    nobody,
    weight,
)

_log = logging.getLogger("taskobs.relay")
BYTES: Final = 256 * 1024 * 1024
AGE: Final = 86_400.0
ENDED: Final = 50_000
"""Keys of ended spans that are remembered, so that one that is sent again is known."""
UNWRITABLE: Final = "the spool cannot be written"
DAMAGED: Final = "the spool was damaged"
_ABOUTS: Final = 1_000
_PAUSE: Final = 1.0


def open_store(
    spool: Mapping[str, object] | None,
    worker: str,
    counters: Counters,
    released: Released = nobody,
    *,
    owner: int | None = None,
) -> Store:
    """Return the spool that ``{"directory", "bytes", "age"}`` asks for, or the memory.

    A directory that cannot be used costs a warning, not the telemetry. ``owner`` is the process
    id of the worker; None takes this process's parent.
    """
    if not spool:
        return MemoryStore(counters, released)
    try:
        place = Place(
            Path(str(spool["directory"])),
            worker,
            bytes=int(str(spool.get("bytes") or BYTES)),
            age=float(str(spool.get("age") or AGE)),
            owner=owner,
        )
        return Spool(counters, place, released)
    except (OSError, sqlite3.Error) as error:
        _log.warning(
            "taskobs relay: the spool in %s cannot be used, what waits is kept in memory: %s",
            *(spool["directory"], error),
        )
        return MemoryStore(counters, released)


class Place(NamedTuple):
    """Where a spool is, and how much it may keep."""

    directory: Path
    worker: str
    """The name of the worker, of which the file's is made."""
    bytes: int = BYTES
    """About; the file can be a third larger."""
    age: float = AGE
    """Seconds after which what waits is given up."""
    owner: int | None = None
    """The process id of the worker; None for this process's parent."""


class Spool(Store):
    """Keeps items in an SQLite file.

    Raises ``OSError`` or ``sqlite3.Error`` when the directory cannot be used. What workers that
    are no more have left there is taken over, now and later.
    """

    durable: ClassVar[bool] = True

    def __init__(self, counters: Counters, place: Place, released: Released = nobody) -> None:
        super().__init__(counters, released)
        self.age = place.age
        self._limit = place.bytes
        self._directory = place.directory
        place.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        owner = place.owner or os.getppid()
        self._file: SpoolFile = lock_one(place.directory, place.worker, owner)
        try:
            self._open()
        except BaseException:
            self._file.unlock()
            raise
        self._tend()

    @property
    def path(self) -> Path:
        """The file in use."""
        return self._file.path

    def append(
        self, items: Sequence[Item], starts: Sequence[Start] = (), ended: Sequence[bytes] = ()
    ) -> None:
        """Commit all of it; what cannot be written is dropped and counted."""
        if not (items or starts or ended):
            return
        with self._lock:
            try:
                self._write(items, starts, ended)
                self._make_room()
            except sqlite3.Error as error:
                self._drop(items, UNWRITABLE, str(error))
                self._trouble(error)
            self._wake()
        sources = [item.source for item in items if item.source is not None]
        if sources:
            self._released(sources)

    def start_del(self, keys: Sequence[bytes]) -> None:
        """Forget spans that are open no more, without remembering them as ended."""
        with self._trying(), self._commit():
            self._db.executemany("DELETE FROM start WHERE key = ?", _rows(keys))

    def starts(self) -> list[Start]:
        """Give the open spans that an earlier relay has kept."""
        with self._trying():
            return [Start(*row) for row in self._db.execute(tables.STARTS)]
        return []

    def ended(self) -> list[bytes]:
        """Give the keys of the spans that have ended last, oldest first."""
        with self._trying():
            return [key for (key,) in self._db.execute("SELECT key FROM ended ORDER BY id")]
        return []

    def done(self, stored: Sequence[Stored]) -> None:
        """Forget what is out, or given up and counted."""
        with self._trying():
            for one in stored:
                self._taken[one.item.kind].pop(one.id, None)
            self._delete(one.id for one in stored)

    def pending(self, kind: ItemKind) -> Pending:
        """Count what waits, with what is being sent."""
        with self._lock:
            taken = self._taken[kind]
            size = self._bytes[kind] + sum(weight(one.item) for one in taken.values())
            return Pending(self._count[kind] + len(taken), size, self._oldest(kind))

    def close(self) -> None:
        """Give nothing any more; what waits stays in the file, for the next relay."""
        super().close()
        with self._lock:
            if self._file.locked:
                with suppress(sqlite3.Error):
                    self._db.close()
                self._file.unlock()

    # Opening, and what goes wrong.

    def _open(self) -> None:
        try:
            self._db = tables.connect(self.path)
        except sqlite3.OperationalError:
            raise
        except (tables.NotASpoolError, sqlite3.DatabaseError) as error:
            self._set_aside(error)
            self._db = tables.connect(self.path)
        self._count: dict[ItemKind, int] = dict.fromkeys(KINDS, 0)
        self._bytes: dict[ItemKind, int] = dict.fromkeys(KINDS, 0)
        """Of what waits untaken."""
        self._taken: dict[ItemKind, dict[int, Stored]] = {kind: {} for kind in KINDS}
        self._cursor: dict[ItemKind, int] = dict.fromkeys(KINDS, 0)
        """The last id that was taken."""
        self._abouts: dict[bytes, int] = {}
        self._newest = 0
        self._recount()

    def _recount(self) -> None:
        """Learn what waits, while nothing is taken."""
        for number, count, size, newest in self._db.execute(tables.WAITING):
            self._count[KINDS[number]] = count
            self._bytes[KINDS[number]] = size + count * OVERHEAD
            self._newest = max(self._newest, newest)

    def _set_aside(self, error: Exception) -> None:
        aside = set_aside(self.path)
        _log.warning(
            "taskobs relay: %s is no spool that can be used (%s), and is set aside as %s",
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
        if self._closed or isinstance(error, (sqlite3.OperationalError, sqlite3.ProgrammingError)):
            return
        waited = dict(self._count)
        with suppress(sqlite3.Error):
            self._db.close()
        try:
            self._set_aside(error)
            self._open()
        except (OSError, sqlite3.Error) as worse:
            _log.warning("taskobs relay: no spool can be made in its place: %s", worse)
        for kind, number in waited.items():
            self._counters.dropped(kind, number, DAMAGED, str(error))

    # Writing. The lock is held.

    @contextmanager
    def _commit(self) -> Generator[None]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._db.execute("COMMIT")
        except BaseException:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            self._abouts.clear()
            raise

    def _write(
        self, items: Sequence[Item], starts: Sequence[Start], ended: Sequence[bytes]
    ) -> None:
        now, first = time.time(), self._newest + 1
        add = self._db.executemany
        with self._commit():
            about = {value: self._about(value) for value in {one.about for one in items}}
            about |= {value: self._about(value) for value in {one.about for one in starts}}
            add(
                tables.ADD_ITEM,
                [
                    (number, KINDS.index(item.kind), now, about[item.about], item.payload)
                    for number, item in enumerate(items, first)
                ],
            )
            add(
                tables.ADD_START,
                [(one.key, one.payload, about[one.about], one.client) for one in starts],
            )
            add("DELETE FROM start WHERE key = ?", _rows(ended))
            add(tables.ADD_ENDED, _rows(ended))
        self._newest += len(items)
        for item in items:
            self._count[item.kind] += 1
            self._bytes[item.kind] += weight(item)
        for kind in KINDS:
            self._counters.add(SPOOLED, kind, sum(item.kind == kind for item in items))

    def _about(self, value: bytes) -> int:
        """Return the number under which ``value`` is kept, once however many share it."""
        digest = sha256(value).digest()
        number = self._abouts.get(digest)
        if number is None:
            self._db.execute(tables.ADD_ABOUT, (digest, value))
            found = self._db.execute("SELECT id FROM about WHERE digest = ?", (digest,))
            number = self._abouts[digest] = int(found.fetchone()[0])
        return number

    def _delete(self, ids: Iterable[int]) -> None:
        with self._commit():
            self._db.executemany("DELETE FROM item WHERE id = ?", ((number,) for number in ids))

    def _drop(self, items: Iterable[Item], reason: str, detail: str = "") -> None:
        kinds = [item.kind for item in items]
        for kind in KINDS:
            self._counters.dropped(kind, kinds.count(kind), reason, detail)

    # Keeping within the bounds. The lock is held.

    def _make_room(self) -> None:
        taken = sum(weight(one.item) for of in self._taken.values() for one in of.values())
        excess = sum(self._bytes.values()) + taken - self._limit
        if excess > 0:
            self._drop_oldest(OVERFLOW, excess)

    def _drop_oldest(self, reason: str, excess: float, before: float | None = None) -> None:
        """Drop what is untaken and oldest, at least ``excess`` bytes, or all ``before`` a time."""
        ids: list[int] = []
        with closing(self._untaken_rows()) as rows:
            for number, kind, since, size in rows:
                if excess <= 0 or (before is not None and since >= before):
                    break
                ids.append(number)
                self._count[kind] -= 1
                self._bytes[kind] -= size
                self._counters.dropped(kind, 1, reason)
                excess -= size
        if ids:
            self._delete(ids)

    def _untaken_rows(self) -> Generator[tuple[int, ItemKind, float, int], None, None]:
        """Give id, kind, time and weight of what is untaken, oldest first."""
        found = self._db.execute("SELECT id, kind, since, length(payload) FROM item ORDER BY id")
        with closing(found):
            for number, kind, since, length in found:
                if number not in self._taken[KINDS[kind]]:
                    yield number, KINDS[kind], since, length + OVERHEAD

    def _tend(self) -> None:
        """Give up what is too old, forget what nothing refers to, take over what others left."""
        try:
            if self.age is not None:
                self._drop_oldest(TOO_OLD, float("inf"), time.time() - self.age)
            self._db.execute(tables.TRIM_ENDED, (ENDED,))
            if self._db.execute("SELECT count(*) FROM about").fetchone()[0] > _ABOUTS:
                self._abouts.clear()
                self._db.execute(tables.SWEEP_ABOUTS)
            for left in abandoned(self._directory, self.path):
                self._take_over(left)
        except (OSError, sqlite3.Error) as error:
            _log.warning("taskobs relay: trouble with the spool %s: %s", self.path, error)

    def _take_over(self, left: SpoolFile) -> None:
        """Move what another worker's relay has left into our own file."""
        try:
            tables.connect(left.path).close()
        except (tables.NotASpoolError, sqlite3.DatabaseError) as error:
            if not isinstance(error, sqlite3.OperationalError):
                aside = set_aside(left.path)
                _log.warning("taskobs relay: %s is set aside as %s: %s", left.path, aside, error)
            return
        self._db.execute("ATTACH ? AS old", (str(left.path),))
        try:
            with self._commit():
                moved = [self._db.execute(copy).rowcount for copy in tables.TAKE_OVER]
        finally:
            self._db.execute("DETACH old")
        left.remove()
        self._abouts.clear()
        self._recount_all()
        _log.info("taskobs relay: %d items taken over from %s", moved[1], left.path.name)

    def _recount_all(self) -> None:
        self._count = dict.fromkeys(KINDS, 0)
        self._bytes = dict.fromkeys(KINDS, 0)
        self._recount()
        for kind, taken in self._taken.items():
            self._count[kind] -= len(taken)
            self._bytes[kind] -= sum(weight(one.item) for one in taken.values())

    # Reading. The lock is held.

    def _take(self, kind: ItemKind, max_items: int, max_bytes: int) -> list[Stored]:
        try:
            return self._read(kind, max_items, max_bytes)
        except sqlite3.Error as error:
            self._trouble(error)
            if not self._closed:
                self._ready[kind].wait(_PAUSE)
            return []

    def _read(self, kind: ItemKind, max_items: int, max_bytes: int) -> list[Stored]:
        batch: list[Stored] = []
        shared: dict[bytes, bytes] = {}
        size = 0
        where = (KINDS.index(kind), self._cursor[kind])
        with closing(self._db.execute(tables.NEXT, where)) as found:
            for number, since, payload, value in found:
                item = Item(kind, payload, shared.setdefault(value, value))
                size += weight(item)
                if batch and size > max_bytes:
                    break
                batch.append(Stored(number, since, item))
                if len(batch) == max_items:
                    break
        for one in batch:
            self._taken[kind][one.id] = one
            self._cursor[kind] = one.id
            self._count[kind] -= 1
            self._bytes[kind] -= weight(one.item)
        if not batch:  # somebody has been at the file
            self._count[kind] = self._bytes[kind] = 0
        return batch

    def _untaken(self, kind: ItemKind) -> tuple[int, int]:
        return self._count[kind], self._bytes[kind]

    def _first(self, kind: ItemKind, *, taken: bool) -> int | None:
        if taken and self._taken[kind]:
            return next(iter(self._taken[kind]))
        if not self._count[kind]:
            return None
        where = (KINDS.index(kind), self._cursor[kind])
        with suppress(sqlite3.Error):  # whoever reads or writes next hears of it
            number = self._db.execute(tables.FIRST, where).fetchone()[0]
            return None if number is None else int(number)
        return None

    def _last(self) -> int:
        return self._newest

    def _oldest(self, kind: ItemKind) -> float | None:
        taken = next(iter(self._taken[kind].values()), None)
        number = taken.id if taken else self._first(kind, taken=False)
        if number is None:
            return None
        with suppress(sqlite3.Error):
            row = self._db.execute("SELECT since FROM item WHERE id = ?", (number,)).fetchone()
            return None if row is None else float(row[0])
        return None


def _rows(keys: Iterable[bytes]) -> list[tuple[bytes]]:
    return [(key,) for key in keys]
