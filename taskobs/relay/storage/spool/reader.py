"""Reads items from a spool's file, and tracks which are taken and where reading goes on.

Methods that read the file may raise ``sqlite3.Error``, unless they say otherwise.
"""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Collection, Iterable, Sequence
from contextlib import closing, suppress

from taskobs.relay.storage.items import ITEM_KINDS, ItemKind, Stored, weight
from taskobs.relay.storage.spool.rows import Rows, RowWeight
from taskobs.relay.storage.spool.writes import Writes


class SpoolReader:
    """Reads one file, and the backlog that could not be written to it. Not thread-safe.

    ``held`` is the store's: by destination on hold, the id after which reading resumes.
    """

    def __init__(self, rows: Rows, writes: Writes, held: dict[bytes, int]) -> None:
        self._rows, self._writes, self._held = rows, writes, held
        self._unclaimed: list[bytes] = []
        self.start_anew()
        self.parked, self.parked_bytes = rows.park()
        self.add_newer_than(0)

    @property
    def newest(self) -> int:
        """The newest id that was given to an item."""
        return self._writes.newest

    def start_anew(self) -> None:
        """Forget what the file held, as an empty one replaces it."""
        self.count: dict[ItemKind, int] = dict.fromkeys(ITEM_KINDS, 0)
        self.bytes: dict[ItemKind, int] = dict.fromkeys(ITEM_KINDS, 0)
        """What waits in the file, without what is taken or parked."""
        self.parked = self.parked_bytes = 0
        """Envelopes that wait for their Sentry client to be announced."""
        self.taken: dict[ItemKind, dict[int, Stored]] = {kind: {} for kind in ITEM_KINDS}
        self._cursor: dict[ItemKind, int] = dict.fromkeys(ITEM_KINDS, 0)
        """All items up to this id are taken or on hold; newer ones may be taken, too."""
        self._held.update(dict.fromkeys(self._held, 0))

    def add_newer_than(self, number: int) -> None:
        """Count rows newer than an id that another relay wrote."""
        for kind in ITEM_KINDS:
            count, size, _ = self._rows.waiting(kind, number)
            self.count[kind] += count
            self.bytes[kind] += size
        self._writes.newest = max(self._writes.newest, self._rows.newest())

    def announce(self, announcement: bytes) -> bool:
        """Make envelopes that wait for a Sentry client available; return whether its DSN is new."""
        dsn = self._rows.destinations.announce(announcement)
        if dsn is not None:
            self._unclaimed.append(dsn)
            self.claim()
        return dsn is not None

    def claim(self) -> None:
        """Make the envelopes of announced clients available; to be called again after an error."""
        while self._unclaimed:
            found = self._rows.claim(self._unclaimed[-1])
            self._unclaimed.pop()  # only now: after an error, a later call tries it again
            size = sum(weight for _, weight in found)
            self.parked -= len(found)
            self.count["envelope"] += len(found)
            self.parked_bytes -= size
            self.bytes["envelope"] += size
            # Nothing of a client that is new can be on hold, so this is all there is to do.
            self.resume_from(min((number for number, _ in found), default=math.inf) - 1)

    def dropped(self, rows: Iterable[RowWeight]) -> None:
        """Note rows that are no longer in the file."""
        for row in rows:
            if row.parked:
                self.parked -= 1
                self.parked_bytes -= row.weight
            else:
                self.count[row.kind] -= 1
                self.bytes[row.kind] -= row.weight

    def add(self, stored: Iterable[Stored]) -> None:
        """Count items that were written or put back; they may be older than what was taken."""
        for one in stored:
            kind, destination = one.item.kind, one.item.resource_blob
            self.count[kind] += 1
            self.bytes[kind] += weight(one.item)
            if kind == "envelope" and destination in self._held:
                self._held[destination] = min(self._held[destination], one.id - 1)
            else:
                self._cursor[kind] = min(self._cursor[kind], one.id - 1)

    def put_back(self, stored: Sequence[Stored]) -> None:
        """Return taken items, so that they are read again."""
        for one in stored:
            if self.taken[one.item.kind].pop(one.id, None):
                self.add(self._writes.put_back([one]))
            else:  # the file that had it was replaced
                self._writes.append([one.item], (), ())

    @property
    def hold_from(self) -> int:
        """The id after which a destination that is held now will be read."""
        return self._cursor["envelope"]

    def resume_from(self, number: float) -> None:
        """Read envelopes newer than ``number`` again."""
        self._cursor["envelope"] = int(min(self._cursor["envelope"], number))

    def take(self, kind: ItemKind, max_items: int, max_bytes: int) -> list[Stored]:
        """Take the oldest items not on hold: at most so many items and bytes, at least one."""
        held: Collection[bytes] = self._held if kind == "envelope" else ()
        batch = self._read(kind, held, max_items, max_bytes)
        for one in batch:
            self.taken[kind][one.id] = one
            self._cursor[kind] = one.id
            self.count[kind] -= 1
            self.bytes[kind] -= weight(one.item)
        if batch:
            return batch
        if held:
            # All of the file is taken or on hold, and ``held`` says from where. Without this,
            # each call would read past what is on hold again.
            self._cursor[kind] = self._writes.newest
        else:  # the file has none, or somebody has changed it
            self.count[kind] = self.bytes[kind] = 0
        return self.take_unwritten(kind, max_items, max_bytes)

    def take_unwritten(self, kind: ItemKind, max_items: int, max_bytes: int) -> list[Stored]:
        """Take the oldest items of the backlog. Raises nothing."""
        batch = self._writes.take(kind, max_items, max_bytes)
        self.taken[kind].update((one.id, one) for one in batch)
        return batch

    def untaken(self, kind: ItemKind) -> tuple[int, int]:
        """Return how many items, and bytes, wait. Raises nothing."""
        backlog = self._writes.waiting(kind)
        return self.count[kind] + len(backlog), self.bytes[kind] + backlog.bytes

    def taken_bytes(self, kind: ItemKind) -> int:
        """Return about how many bytes are taken. Raises nothing."""
        return sum(weight(one.item) for one in self.taken[kind].values())

    def first(self, kind: ItemKind, *, taken: bool) -> int | None:
        """Return the oldest id that waits; with ``taken``, also of those. Raises nothing."""
        # The order in which items were taken says nothing: some were put back and taken again.
        found = [*self.taken[kind]] if taken else []
        untaken = self._first_untaken(kind)
        return min(found if untaken is None else [*found, untaken], default=None)

    def _read(
        self, kind: ItemKind, held: Collection[bytes], max_items: int, max_bytes: int
    ) -> list[Stored]:
        batch: list[Stored] = []
        with closing(self._rows.after(kind, self._cursor[kind], held)) as found:
            for one in found:
                if self._unavailable(kind, one.id):
                    continue
                max_bytes -= weight(one.item)
                if batch and max_bytes < 0:
                    break
                batch.append(one)
                if len(batch) == max_items:
                    break
        return batch

    def _unavailable(self, kind: ItemKind, number: int) -> bool:
        """Return whether it is taken, or sent and not deleted yet, though newer than the cursor."""
        return number in self.taken[kind] or number in self._writes.sent

    def _first_untaken(self, kind: ItemKind) -> int | None:
        if not self.count[kind]:
            return self._writes.waiting(kind).first
        number = self._cursor[kind]
        if kind == "envelope":
            number = min([self._cursor[kind], *self._held.values()])
        with suppress(sqlite3.Error):  # the next read or write raises it again
            while True:
                found = self._rows.first_after(kind, number)
                if found is None or not self._unavailable(kind, found):
                    return found
                number = found
        return None
