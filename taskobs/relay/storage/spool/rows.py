"""Reads and writes the rows of a spool's file. Every method may raise ``sqlite3.Error``.

The destinations of envelopes are not in the file: a row has an id from ``Destinations``.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Generator, Iterable, Sequence
from contextlib import closing, contextmanager, suppress
from hashlib import sha256
from pathlib import Path
from typing import Final, NamedTuple

from taskobs.relay.storage.items import ITEM_KINDS, OVERHEAD, Item, ItemKind, Start, Stored
from taskobs.relay.storage.spool import schema as tables
from taskobs.relay.storage.spool.clock import ClockReading, SpoolClock
from taskobs.relay.storage.spool.destinations import MOST, Destinations

ENDED: Final = 50_000
"""Keys of ended spans that are kept, to recognise duplicates."""
_RESOURCES: Final = 1_000
_NUMBERS: Final[dict[ItemKind, int]] = {
    "span": tables.SPAN,
    "envelope": tables.ENVELOPE,
    "log": tables.LOG,
}
_KINDS: Final[dict[int, ItemKind]] = {number: kind for kind, number in _NUMBERS.items()}


class TakenOver(NamedTuple):
    """What was moved from another file."""

    moved: int
    starts: list[Start]
    """Spans that were open."""
    too_old: dict[ItemKind, int]
    """How many items were dropped instead."""
    left: int
    """Envelopes that stay there, as no Sentry client of this worker can send them."""


class RowWeight(NamedTuple):
    """An item in the file, without its payload."""

    id: int
    kind: ItemKind
    since: float
    weight: int
    parked: bool


class Rows:
    """The rows of one file. Raises as ``schema.connect`` does. Not thread-safe."""

    def __init__(self, path: Path, longest: float) -> None:
        """``longest`` is what the wall clock alone may add to the age of what is there."""
        self.path = path
        self.destinations = Destinations()
        self._db = tables.connect(path)
        self._longest = longest
        self.clock = SpoolClock(self._read_clock("main"), longest)
        self._resource_blobs: dict[bytes, int] = {}

    def reopen(self, path: Path) -> None:
        """Close the file and open it, or an empty one that took its place, again."""
        # Closed first: SQLite lets connections to one file share their view of its write-ahead log,
        # and that log was removed.
        self._db.close()
        self._resource_blobs.clear()
        self._db = tables.connect(path)

    def move_to(self, path: Path) -> None:
        """Copy everything to another file, which has to be empty, and go on there."""
        with closing(sqlite3.connect(path)) as copy:
            self._db.backup(copy)
        old, self._db = self._db, tables.connect(path)
        self.path = path
        with suppress(sqlite3.Error), closing(old):
            # Emptied: it may have been moved to where another relay would take it over, too.
            for emptied in tables.EMPTY:
                old.execute(emptied.format(schema="main"))

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    # Writing.

    @contextmanager
    def _commit(self) -> Generator[None]:
        # IMMEDIATE takes the lock for writing now, and waits for it. A transaction that began with
        # a read would fail at its first write, without a wait.
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._db.execute("COMMIT")
        except BaseException:
            if self._db.in_transaction:  # after some errors SQLite has rolled back by itself
                self._db.execute("ROLLBACK")
            self._resource_blobs.clear()  # it may have ids that were rolled back
            raise

    def add(
        self, stored: Sequence[Stored], starts: Iterable[Start], ended: Iterable[bytes]
    ) -> None:
        """Add items, keep ``starts``, forget those that have ``ended``."""
        add = self._db.executemany
        starts, ended = list(starts), list(ended)
        with self._commit():
            blob_ids = self._resource_ids(stored, starts)
            add(
                tables.ADD_ITEM,
                [
                    (
                        number,
                        _NUMBERS[item.kind],
                        since,
                        blob_ids[self._value(item)],
                        item[1],
                    )
                    for number, since, item in stored
                ],
            )
            add(
                tables.ADD_START,
                [(one.key, one.payload, blob_ids[one.resource_blob], one.client) for one in starts],
            )
            add(tables.DROP_START, _rows(ended))
            add(tables.ADD_ENDED, _rows(ended))

    def _resource_ids(self, stored: Iterable[Stored], starts: Iterable[Start]) -> dict[bytes, int]:
        values = {self._value(one.item) for one in stored}
        values.update(one.resource_blob for one in starts)
        return {value: self._resource_id(value) for value in values}

    def _value(self, item: Item) -> bytes:
        """Return what the file keeps for an item's ``resource_blob``."""
        if item.kind == "envelope":
            return self.destinations.id_of(item.resource_blob)
        return item.resource_blob

    def _resource_id(self, value: bytes) -> int:
        """Return the id of ``value``, which is stored once for all items that share it."""
        digest = sha256(value).digest()
        number = self._resource_blobs.get(digest)
        if number is None:
            self._db.execute(tables.ADD_BLOB, (digest, value))
            found = self._db.execute("SELECT id FROM about WHERE digest = ?", (digest,))
            number = self._resource_blobs[digest] = int(found.fetchone()[0])
        return number

    def remove(self, ids: Iterable[int]) -> None:
        """Delete items."""
        with self._commit():
            self._db.executemany("DELETE FROM item WHERE id = ?", ((number,) for number in ids))

    def remove_starts(self, keys: Sequence[bytes]) -> None:
        """Delete open spans, without noting them as ended."""
        with self._commit():
            self._db.executemany(tables.DROP_START, _rows(keys))

    def trim(self) -> None:
        """Delete the oldest keys, and resources that nothing refers to."""
        self._db.execute(tables.TRIM_ENDED, (ENDED,))
        if self._db.execute("SELECT count(*) FROM about").fetchone()[0] > _RESOURCES:
            self._resource_blobs.clear()
            self._db.execute(tables.SWEEP_BLOBS)

    def take_over(self, path: Path, newest: int, age: float) -> TakenOver:
        """Move the contents of another file here, its items with ids above ``newest``.

        Envelopes that this worker can't send stay there. Items older than ``age`` are dropped.
        """
        self._db.execute("ATTACH ? AS old", (str(path),))
        try:
            with self._commit():  # begins a write in both files, so it fails before anything moves
                taken = self._copy(newest, age)
                # With WAL, the two files are not committed at one instant: ours is first, so a kill
                # in between doubles and loses nothing.
                for statement in tables.TAKEN_OVER:
                    self._db.execute(*self._for_dsns(statement))
        finally:
            self._db.execute("DETACH old")
        self._resource_blobs.clear()
        return taken

    def _copy(self, newest: int, age: float) -> TakenOver:
        theirs = SpoolClock(self._read_clock("old"), self._longest).now()
        dropped = dict(self._db.execute(tables.TOO_OLD_THERE, (theirs - age,)))
        self._db.execute("DELETE FROM old.item WHERE since < ?", (theirs - age,))
        for statement in tables.TAKE_OVER:
            self._db.execute(statement)
        items = tables.TAKE_OVER_ITEMS
        moved = self._db.execute(*self._for_dsns(items, newest, self.clock.now() - theirs)).rowcount
        starts = [Start(*row) for row in self._db.execute(tables.THEIR_STARTS)]
        left = self._db.execute(*self._for_dsns(tables.STAYS)).fetchone()[0]
        too_old = dict.fromkeys(ITEM_KINDS, 0)
        for kind, number in dropped.items():
            too_old[_kind(kind)] += number
        return TakenOver(moved, starts, too_old, left)

    def _for_dsns(self, statement: str, *values: object) -> tuple[str, list[object]]:
        """Return a statement, and its values, for the DSNs of this worker."""
        dsns = self.destinations.dsns
        found = [*values, *dsns] if "{dsns}" in statement else [*values]
        return statement.format(dsns=",".join("?" * len(dsns))), found

    # The clock.

    def keep_clock(self) -> None:
        """Store the clock's reading, for the next relay."""
        with self._commit():
            self._db.execute(tables.SET_CLOCK, self.clock.read())

    def _read_clock(self, schema: str) -> ClockReading | None:
        row = self._db.execute(tables.READ_CLOCK.format(schema=schema)).fetchone()
        return None if row is None else ClockReading(*row)

    # Envelopes whose Sentry client was not announced.

    def park(self) -> tuple[int, int]:
        """Park all envelopes until their clients are announced; return their number and weight."""
        with self._commit():
            self._db.execute(tables.PARK)
        count, size, _ = self._db.execute(tables.WAITING, (tables.PARKED, 0)).fetchone()
        return count, size + count * OVERHEAD

    def claim(self, dsn: bytes) -> list[tuple[int, int]]:
        """Make the parked envelopes of a DSN available; return their ids and weights."""
        with self._commit():
            found = self._db.execute(tables.CLAIMABLE, (dsn,)).fetchall()
            self._db.execute(tables.CLAIM, (dsn,))
        return [(number, length + OVERHEAD) for number, length in found]

    # Reading.

    def waiting(self, kind: ItemKind, number: int) -> tuple[int, int, int]:
        """Return the number of items newer than an id, their weight and the newest id."""
        found = self._db.execute(tables.WAITING, (_NUMBERS[kind], number))
        count, size, newest = found.fetchone()
        return count, size + count * OVERHEAD, newest

    def after(
        self, kind: ItemKind, number: int, held: Collection[bytes] = ()
    ) -> Generator[Stored, None, None]:
        """Yield the items newer than an id whose ``resource_blob`` is not held, oldest first."""
        shared: dict[bytes, bytes] = {}
        # In the query, so that payloads of what is held are not read from the disk at each call.
        digests = [sha256(self.destinations.id_of(value)).digest() for value in held][:MOST]
        but = f" AND about.digest NOT IN ({','.join('?' * len(digests))})" if digests else ""
        query = tables.NEXT.format(but=but)
        with closing(self._db.execute(query, (_NUMBERS[kind], number, *digests))) as found:
            for one, since, payload, value in found:
                if kind == "envelope":
                    blob = self.destinations.find(value)
                else:
                    blob = shared.setdefault(value, value)
                if blob is not None and blob not in held:
                    yield Stored(one, since, Item(kind, payload, blob))

    def newest(self) -> int:
        """Return the newest id of an item; 0 if there is none."""
        return int(self._db.execute(tables.NEWEST).fetchone()[0])

    def first_after(self, kind: ItemKind, number: int) -> int | None:
        """Return the oldest id of a kind that is newer than an id."""
        found = self._db.execute(tables.FIRST, (_NUMBERS[kind], number)).fetchone()[0]
        return None if found is None else int(found)

    def weights(self) -> Generator[RowWeight, None, None]:
        """Yield all items, oldest first."""
        with closing(self._db.execute(tables.WEIGHTS)) as found:
            for number, kind, since, length in found:
                parked = kind == tables.PARKED
                yield RowWeight(number, _kind(kind), since, length + OVERHEAD, parked)

    def starts(self) -> list[Start]:
        """Return the open spans."""
        return [Start(*row) for row in self._db.execute(tables.STARTS)]

    def ended(self) -> list[bytes]:
        """Return the keys of ended spans, oldest first."""
        return [key for (key,) in self._db.execute("SELECT key FROM ended ORDER BY id")]


def _kind(number: int) -> ItemKind:
    return _KINDS.get(number, "envelope")  # parked ones are envelopes, too


def _rows(keys: Iterable[bytes]) -> list[tuple[bytes]]:
    return [(key,) for key in keys]
