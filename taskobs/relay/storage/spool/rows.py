"""What a spool's file holds, read and written. All of it may raise ``sqlite3.Error``."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Generator, Iterable, Sequence
from contextlib import closing, contextmanager, suppress
from hashlib import sha256
from pathlib import Path
from typing import Final

from taskobs.relay.storage.items import ITEM_KINDS, OVERHEAD, Item, ItemKind, Start, Stored
from taskobs.relay.storage.spool import schema as tables

ENDED: Final = 50_000
"""Keys of ended spans that are remembered, so that one that is sent again is known."""
_RESOURCES: Final = 1_000
_HELD: Final = 200
"""How many a query names; SQLite before 3.32 takes 999 values at most."""


class Rows:
    """The rows of one file. Raises as ``spool_tables.connect`` does. Not thread-safe."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._db = tables.connect(path)
        self._resource_blobs: dict[bytes, int] = {}

    def reopen(self, path: Path) -> None:
        """Close the file and open it, or an empty one that took its place, again."""
        # Closed first: SQLite shares the memory of two connections to a file, and that is about the
        # write-ahead log that was removed.
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
            # It may have been moved to where another relay takes it over.
            for emptied in tables.EMPTY:
                old.execute(emptied.format(schema="main"))

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    # Writing.

    @contextmanager
    def _commit(self) -> Generator[None]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._db.execute("COMMIT")
        except BaseException:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            self._resource_blobs.clear()
            raise

    def add(
        self, stored: Sequence[Stored], starts: Iterable[Start], ended: Iterable[bytes]
    ) -> None:
        """Add items, keep ``starts``, forget those that have ``ended``."""
        add = self._db.executemany
        starts, ended = list(starts), list(ended)
        with self._commit():
            values = {one.item.resource_blob for one in stored} | {
                one.resource_blob for one in starts
            }
            resource_blob = {value: self._resource_id(value) for value in values}
            add(
                tables.ADD_ITEM,
                [
                    (
                        number,
                        ITEM_KINDS.index(item.kind),
                        since,
                        resource_blob[item.resource_blob],
                        item.payload,
                    )
                    for number, since, item in stored
                ],
            )
            add(
                tables.ADD_START,
                [
                    (one.key, one.payload, resource_blob[one.resource_blob], one.client)
                    for one in starts
                ],
            )
            add(tables.DROP_START, _rows(ended))
            add(tables.ADD_ENDED, _rows(ended))

    def _resource_id(self, value: bytes) -> int:
        """Return the number under which ``value`` is kept, once however many share it."""
        digest = sha256(value).digest()
        number = self._resource_blobs.get(digest)
        if number is None:
            self._db.execute(tables.ADD_ABOUT, (digest, value))
            found = self._db.execute("SELECT id FROM about WHERE digest = ?", (digest,))
            number = self._resource_blobs[digest] = int(found.fetchone()[0])
        return number

    def remove(self, ids: Iterable[int]) -> None:
        """Forget items."""
        with self._commit():
            self._db.executemany("DELETE FROM item WHERE id = ?", ((number,) for number in ids))

    def remove_starts(self, keys: Sequence[bytes]) -> None:
        """Forget open spans, without remembering them as ended."""
        with self._commit():
            self._db.executemany(tables.DROP_START, _rows(keys))

    def trim(self) -> None:
        """Forget the oldest keys, and what nothing refers to."""
        self._db.execute(tables.TRIM_ENDED, (ENDED,))
        if self._db.execute("SELECT count(*) FROM about").fetchone()[0] > _RESOURCES:
            self._resource_blobs.clear()
            self._db.execute(tables.SWEEP_ABOUTS)

    def take_over(self, path: Path, newest: int) -> tuple[int, list[Start]]:
        """Move all that another file holds here, its items with ids above ``newest``.

        Returns how many items these are, and the open spans.
        """
        self._db.execute("ATTACH ? AS old", (str(path),))
        try:
            with self._commit():  # begins a write in both files, so it fails before anything moves
                for copy in tables.TAKE_OVER:
                    self._db.execute(copy)
                moved = self._db.execute(tables.TAKE_OVER_ITEMS, (newest,)).rowcount
                starts = [Start(*row) for row in self._db.execute(tables.THEIR_STARTS)]
                # The file may have to stay where it is. With WAL, the two files are not committed
                # at one instant: ours is first, so a kill in between doubles and loses nothing.
                for emptied in tables.EMPTY:
                    self._db.execute(emptied.format(schema="old"))
        finally:
            self._db.execute("DETACH old")
        self._resource_blobs.clear()
        return moved, starts

    # Reading.

    def waiting(self, kind: ItemKind, number: int) -> tuple[int, int, int]:
        """Give of the items newer than an id how many they are, their weight and the newest id."""
        found = self._db.execute(tables.WAITING, (ITEM_KINDS.index(kind), number))
        count, size, newest = found.fetchone()
        return count, size + count * OVERHEAD, newest

    def after(
        self, kind: ItemKind, number: int, held: Collection[bytes] = ()
    ) -> Generator[Stored, None, None]:
        """Give the items newer than an id whose ``resource_blob`` is not held, oldest first."""
        shared: dict[bytes, bytes] = {}
        # In the query, so that payloads of what is held are not read from the disk at each call.
        digests = [sha256(value).digest() for value in held][:_HELD]
        but = f" AND about.digest NOT IN ({','.join('?' * len(digests))})" if digests else ""
        query = tables.NEXT.format(but=but)
        with closing(self._db.execute(query, (ITEM_KINDS.index(kind), number, *digests))) as found:
            for one, since, payload, value in found:
                if value not in held:
                    yield Stored(one, since, Item(kind, payload, shared.setdefault(value, value)))

    def first_after(self, kind: ItemKind, number: int) -> int | None:
        """Return the oldest id of a kind that is newer than an id."""
        found = self._db.execute(tables.FIRST, (ITEM_KINDS.index(kind), number)).fetchone()[0]
        return None if found is None else int(found)

    def since(self, number: int) -> float | None:
        """Return when an item came."""
        row = self._db.execute("SELECT since FROM item WHERE id = ?", (number,)).fetchone()
        return None if row is None else float(row[0])

    def weights(self) -> Generator[tuple[int, ItemKind, float, int], None, None]:
        """Give id, kind, time and weight of all items, oldest first."""
        with closing(self._db.execute(tables.WEIGHTS)) as found:
            for number, kind, since, length in found:
                yield number, ITEM_KINDS[kind], since, length + OVERHEAD

    def starts(self) -> list[Start]:
        """Give the open spans."""
        return [Start(*row) for row in self._db.execute(tables.STARTS)]

    def ended(self) -> list[bytes]:
        """Give the keys of the spans that have ended last, oldest first."""
        return [key for (key,) in self._db.execute("SELECT key FROM ended ORDER BY id")]


def _rows(keys: Iterable[bytes]) -> list[tuple[bytes]]:
    return [(key,) for key in keys]
