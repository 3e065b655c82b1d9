"""What goes into a spool's file: now or, while the disk is full, later.

It may raise ``sqlite3.Error``: then what was to be written is kept in memory, what was to be
deleted is remembered, and a later call tries again.
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

    ``wrote`` is called with the items that the file holds from now on, ``dropped`` with those that
    were given up and counted.
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
        """What is out, and could not be deleted yet."""
        self._never_written: set[int] = set()
        """What was taken from memory, and is being sent."""
        self.newest = 0
        """No number is given twice, also after another file was begun."""

    def start_anew(self) -> None:
        """Go on with an empty file."""
        self.sent.clear()
        self._backlog.failed(wait=False)

    @property
    def behind(self) -> bool:
        """Whether something is only in memory."""
        return bool(self._backlog)

    def waiting(self, kind: ItemKind) -> Queue | DestinationQueues:
        """Give what is only in memory, to look at."""
        return self._backlog[kind]

    def take(self, kind: ItemKind, items: int, size: int) -> list[Stored]:
        """Take the oldest of what is only in memory, as ``Queue.take`` does."""
        batch = self._backlog[kind].take(items, size)
        self._never_written.update(one.id for one in batch)
        return batch

    def put_back(self, stored: Sequence[Stored]) -> list[Stored]:
        """Keep in memory again what was taken from there; return the rest, which is in the file."""
        mine = [one for one in stored if one.id in self._never_written]
        self._never_written.difference_update(one.id for one in mine)
        self._backlog.put_back(mine)
        return [one for one in stored if one not in mine]

    def append(
        self, items: Sequence[Item], starts: Sequence[Start], ended: Sequence[bytes]
    ) -> None:
        """Write, behind what is only in memory."""
        stored = self._numbered(items)
        if self._backlog:
            self._defer(stored, starts, ended)
            self.catch_up()
            return
        try:
            self._add(stored, starts, ended)
        except sqlite3.Error as error:
            _log.warning(
                "taskobs relay: the spool %s cannot be written (%s): memory serves, until it can",
                *(self._rows.path, error),
            )
            self._defer(stored, starts, ended, str(error))
            self._backlog.failed(wait=True)
            raise

    def catch_up(self) -> None:
        """Write what is only in memory, if it is time to try again."""
        backlog = self._backlog
        if not backlog or not backlog.due:
            return
        while backlog:
            batch = backlog.take()
            try:
                self._add(batch, backlog.starts.values(), backlog.ended)
            except sqlite3.Error:
                backlog.put_back(batch)
                backlog.failed(wait=True)
                raise
            backlog.starts.clear()
            backlog.ended.clear()
        _log.warning("taskobs relay: the spool %s is written again", self._rows.path)

    def finish(self) -> None:
        """Try a last time; count what will be gone with this process. Raises nothing."""
        self._backlog.failed(wait=False)
        try:
            self.catch_up()
            self.delete(())
        except sqlite3.Error as error:
            for kind in ITEM_KINDS:
                self._counters.dropped(kind, len(self._backlog[kind]), UNWRITABLE, str(error))

    def delete(self, ids: Iterable[int]) -> None:
        """Delete what is out."""
        out = set(ids)
        self.sent |= out - self._never_written
        self._never_written -= out
        if self.sent:
            self._rows.remove(self.sent)
            self.sent.clear()

    def delete_starts(self, keys: Sequence[bytes]) -> None:
        """Forget open spans, without remembering them as ended."""
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
