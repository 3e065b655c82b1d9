"""How much a spool may keep, and for how long: what is beyond is dropped, oldest first."""

from __future__ import annotations

import math
from contextlib import closing
from typing import NamedTuple

from taskobs.relay.counters import Counters
from taskobs.relay.storage.base import OVERFLOW, TOO_OLD
from taskobs.relay.storage.items import ITEM_KINDS
from taskobs.relay.storage.spool.reader import SpoolReader
from taskobs.relay.storage.spool.rows import Rows, RowWeight
from taskobs.relay.storage.spool.writes import Writes


class SpoolLimits(NamedTuple):
    """Keeps a spool within them. Its methods may raise ``sqlite3.Error``. Not thread-safe."""

    bytes: int
    age: float
    counters: Counters
    rows: Rows
    reader: SpoolReader
    writes: Writes

    @property
    def oldest(self) -> float:
        """What the spool's clock showed when items came that are as old as they may be."""
        return self.rows.clock.now() - self.age

    def make_room(self) -> None:
        """Drop what there is no room for."""
        reader = self.reader
        taken = sum(reader.taken_bytes(kind) for kind in ITEM_KINDS)
        excess = sum(reader.bytes.values()) + reader.parked_bytes + taken - self.bytes
        if excess > 0:
            self._drop(OVERFLOW, excess, math.inf)

    def drop_too_old(self) -> None:
        """Drop what is too old."""
        self._drop(TOO_OLD, math.inf, self.oldest)

    def _drop(self, reason: str, excess: float, before: float) -> None:
        """Drop the oldest that are not taken, of before a time, until there is no excess."""
        dropped: list[RowWeight] = []
        with closing(self.rows.weights()) as rows:
            for row in rows:
                if row.id in self.reader.taken[row.kind] or row.id in self.writes.sent:
                    continue
                if excess <= 0 or row.since >= before:
                    break
                dropped.append(row)
                excess -= row.weight
        if dropped:
            self.rows.remove(row.id for row in dropped)
            self.reader.dropped(dropped)
        for kind in ITEM_KINDS:
            number = sum(row.kind == kind for row in dropped)
            self.counters.dropped(kind, number, reason)
