"""Writes to a spool's file, now or, while the disk is full, later.

After an ``sqlite3.Error``, what was to be written is in the backlog, what was to be deleted is
noted, and a later call tries again.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable, Container, Iterable, Sequence
from typing import Final

from taskobs.relay.counters import SPOOLED, Counters
from taskobs.relay.storage.items import ITEM_KINDS, Item, ItemKind, Start, Stored
from taskobs.relay.storage.memory_queues import DestinationQueues, Queue
from taskobs.relay.storage.spool.backlog import WriteBacklog
from taskobs.relay.storage.spool.rows import Rows

_log = logging.getLogger("taskobs.relay")
UNWRITABLE: Final = "the spool cannot be written"


class Writes:
    """Writes to the file in use. Not thread-safe.

    ``wrote`` is called with the items that were committed, ``dropped`` with those that were dropped
    and counted.
    """

    def __init__(
        self,
        counters: Counters,
        rows: Rows,
        wrote: Callable[[Sequence[Stored]], None],
        dropped: Callable[[Sequence[Stored]], None],
        held: Container[bytes] = (),
    ) -> None:
        self._counters = counters
        self._rows = rows
        self._wrote, self._dropped = wrote, dropped
        self._backlog = WriteBacklog(held=held)
        self.sent: set[int] = set()
        """Items that are sent and could not be deleted yet."""
        self._never_written: set[int] = set()
        """Items that were taken from the backlog and are being sent."""
        self.newest = 0
        """The newest id. No id is given twice, also after another file was begun."""

    def start_anew(self) -> None:
        """Go on with an empty file."""
        self.sent.clear()  # those rows are not in this file
        self._backlog.failed(wait=False)  # a new file: writing to it may succeed

    @property
    def behind(self) -> bool:
        """Whether something is only in memory."""
        return bool(self._backlog)

    def waiting(self, kind: ItemKind) -> Queue | DestinationQueues:
        """Return the queue of what is only in memory; not to be changed."""
        return self._backlog[kind]

    def take(self, kind: ItemKind, items: int, size: int) -> list[Stored]:
        """Take the oldest of what is only in memory, as ``Queue.take`` does."""
        batch = self._backlog[kind].take(items, size)
        self._never_written.update(one.id for one in batch)
        return batch

    def put_back(self, stored: Sequence[Stored]) -> list[Stored]:
        """Return items to the backlog that came from it; return the rest, which the file has."""
        mine = [one for one in stored if one.id in self._never_written]
        self._never_written.difference_update(one.id for one in mine)
        self._backlog.put_back(mine)
        return [one for one in stored if one not in mine]

    def append(
        self, items: Sequence[Item], starts: Sequence[Start], ended: Sequence[bytes]
    ) -> None:
        """Write items, open spans and keys, after what is in the backlog."""
        stored = self._numbered(items)
        if self._backlog:  # behind it, so that ids in the file grow in the order of arrival
            self._defer(stored, starts, ended)
            self.catch_up()
            return
        try:
            self._add(stored, starts, ended)
        except sqlite3.Error as error:
            _log.warning(
                "taskobs relay: writing to the spool %s failed, keeping new items in memory: %s",
                *(self._rows.path, error),
            )
            self._defer(stored, starts, ended, str(error))
            self._backlog.failed(wait=True)
            raise

    def catch_up(self) -> None:
        """Write the backlog, if the next attempt is due."""
        backlog = self._backlog
        if not backlog or not backlog.due:
            return
        while backlog:
            batch = backlog.take()
            try:
                self._add(batch, backlog.starts.values(), backlog.ended)
            except sqlite3.Error:  # the commit was rolled back: none of the batch is in the file
                backlog.put_back(batch)
                backlog.failed(wait=True)
                raise
            backlog.starts.clear()
            backlog.ended.clear()
        _log.warning("taskobs relay: writing to the spool %s succeeds again", self._rows.path)

    def finish(self) -> None:
        """Try a last time; count what ends with this process. Raises nothing."""
        self._backlog.failed(wait=False)
        try:
            self.catch_up()
            self.delete(())
        except sqlite3.Error as error:
            for kind in ITEM_KINDS:
                self._counters.dropped(kind, len(self._backlog[kind]), UNWRITABLE, str(error))

    def delete(self, ids: Iterable[int]) -> None:
        """Delete items that were sent."""
        out = set(ids)
        # Noted first: if the deletion fails, the reader skips them, and the next call deletes them.
        self.sent |= out - self._never_written
        self._never_written -= out
        if self.sent:
            self._rows.remove(self.sent)
            self.sent.clear()

    def delete_starts(self, keys: Sequence[bytes]) -> None:
        """Delete open spans, without noting them as ended."""
        for key in keys:
            self._backlog.starts.pop(key, None)
        self._rows.remove_starts(keys)

    def _numbered(self, items: Sequence[Item]) -> list[Stored]:
        now, first = self._rows.clock.now(), self.newest + 1
        self.newest += len(items)
        return [Stored(number, now, item) for number, item in enumerate(items, first)]

    def _add(
        self, stored: Sequence[Stored], starts: Iterable[Start], ended: Iterable[bytes]
    ) -> None:
        self._rows.add(stored, starts, ended)
        self._wrote(stored)
        for kind in ITEM_KINDS:
            self._counters.add(SPOOLED, kind, sum(one.item.kind == kind for one in stored))

    def _defer(
        self,
        stored: Sequence[Stored],
        starts: Sequence[Start],
        ended: Sequence[bytes],
        why: str = "",
    ) -> None:
        dropped = self._backlog.add(stored, starts, ended)
        kinds = [one.item.kind for one in dropped]
        for kind in ITEM_KINDS:
            self._counters.dropped(kind, kinds.count(kind), UNWRITABLE, why)
        self._dropped(dropped)
