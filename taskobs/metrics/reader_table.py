"""The app's own metric readers whose counts a worker keeps: a table in the counters' memory.

Each has a number, which the keys of its sums have too. Any process of the worker adds a reader; all
that have the same settings and resource are one. So what the pool children of a worker set up each
by itself makes one set of series.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from typing import Final

MOST: Final = 8
ENTRY: Final = 16 * 1024
"""Bytes of one reader's packed settings, with their length."""
TABLE: Final = MOST * ENTRY
_LENGTH: Final = 4
_LOCK: Final = 1
"""The byte of the memory that is locked; the first one is for those who take a region."""


class ReaderTable:
    """Not thread-safe; processes keep each other out."""

    def __init__(self, descriptor: int, at: int) -> None:
        """``at`` is where in the memory the table begins."""
        self._descriptor, self._at = descriptor, at

    def number(self, settings: bytes) -> int:
        """Return the number of a reader, from 1 on; 0 if there is no room for it.

        Raises:
            OSError: there is something wrong with the memory.
        """
        if not 0 < len(settings) <= ENTRY - _LENGTH:
            return 0
        try:
            # Within: a time limit's signal may raise between the call and what follows it.
            fcntl.lockf(self._descriptor, fcntl.LOCK_EX, 1, _LOCK)
            listed = self.all()
            if settings in listed:
                return listed.index(settings) + 1
            return self._add(len(listed), settings) if len(listed) < MOST else 0
        finally:
            fcntl.lockf(self._descriptor, fcntl.LOCK_UN, 1, _LOCK)

    def _add(self, index: int, settings: bytes) -> int:
        at = self._at + index * ENTRY
        # The length last: a process that is killed before that has added nothing.
        os.pwrite(self._descriptor, settings, at + _LENGTH)
        os.pwrite(self._descriptor, len(settings).to_bytes(_LENGTH, "little"), at)
        return index + 1

    def all(self) -> list[bytes]:
        """Return the settings of all readers, by number.

        Raises:
            OSError: there is something wrong with the memory.
        """
        return list(self._read())

    def _read(self) -> Iterator[bytes]:
        for index in range(MOST):
            at = self._at + index * ENTRY
            length = int.from_bytes(os.pread(self._descriptor, _LENGTH, at), "little")
            if not 0 < length <= ENTRY - _LENGTH:
                return
            yield os.pread(self._descriptor, length, at + _LENGTH)
