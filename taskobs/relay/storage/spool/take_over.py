"""Spools that no worker needs any more: found, and what they hold moved into another one's."""

from __future__ import annotations

import logging
import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from taskobs.relay.storage.items import Start
from taskobs.relay.storage.spool.files import (
    SUFFIX,
    SpoolFile,
    UntrustedFileError,
    companions,
    lock,
    lock_path,
    name_of,
    read_owner,
)
from taskobs.relay.storage.spool.owner import UNCHANGED_FOR, ChangeWatch, Owner
from taskobs.relay.storage.spool.reader import SpoolReader
from taskobs.relay.storage.spool.rows import Rows
from taskobs.relay.storage.spool.schema import NotASpoolError, connect, is_damage

_log: Final = logging.getLogger("taskobs.relay")
_SKIPPED: Final = 1_000
"""How many files are remembered, so that each is logged once."""


class TakeOver:
    """Takes over what it finds in a directory, again and again. Not thread-safe."""

    def __init__(self, owner: Owner, clock: Callable[[], float] = time.monotonic) -> None:
        self._owner = owner
        self._clock = clock
        self._watch = ChangeWatch()
        self._skipped: set[Path] = set()

    def run(self, rows: Rows, reader: SpoolReader) -> list[Start]:
        """Move everything into ``rows``; return the spans that were open."""
        starts: list[Start] = []
        for file in self._abandoned(rows.path):
            starts += self._try_to_move(file, rows, reader)
        return starts

    def _try_to_move(self, file: SpoolFile, rows: Rows, reader: SpoolReader) -> list[Start]:
        try:
            connect(file.path).close()
            return self._move(file, rows, reader)
        except (OSError, sqlite3.Error, NotASpoolError) as error:
            if is_damage(error):
                self._set_aside(file, error)
            else:
                self._skip(file.path, error)
            return []

    def _move(self, file: SpoolFile, rows: Rows, reader: SpoolReader) -> list[Start]:
        """Move what one file holds.

        Raises:
            OSError, sqlite3.Error: that can't be done, or the file can't be removed.
        """
        newest = reader.newest
        try:
            moved, starts = rows.take_over(file.path, newest)
        finally:
            # Also after an error: an id that is in the file must not be given again.
            reader.add_newer_than(newest)
        if moved or starts:
            _log.info("taskobs relay: %d items taken over from %s", moved, file.path.name)
        self._remove(file)
        return starts

    def _remove(self, file: SpoolFile) -> None:
        try:
            file.remove()
        except OSError as error:  # it is empty, and stays where it is
            self._skip(file.path, error)

    def _set_aside(self, file: SpoolFile, error: Exception) -> None:
        try:
            aside = file.set_aside()
        except OSError as refused:
            self._skip(file.path, refused)
        else:
            _log.warning("taskobs relay: %s is set aside as %s: %s", file.path, aside.name, error)

    def _abandoned(self, mine: Path) -> Iterator[SpoolFile]:
        """Yield, locked, each spool beside ``mine`` whose worker has ended.

        A file that can't be used is skipped, and keeps nobody from the others. It is unlocked
        again when the next one is asked for.
        """
        for path in sorted(mine.parent.glob(f"*{SUFFIX}")):
            if path == mine:
                continue
            try:
                file = lock(path) if self._is_abandoned(path, mine) else None
            except FileNotFoundError:  # another relay was faster
                continue
            except OSError as error:
                self._skip(path, error)
                continue
            if file is not None:
                try:
                    yield file
                finally:
                    file.unlock()

    def _skip(self, path: Path, error: Exception) -> None:
        """Log, once, that a file is left alone."""
        if path in self._skipped:
            return
        if len(self._skipped) < _SKIPPED:
            self._skipped.add(path)
        where = "" if isinstance(error, UntrustedFileError) else f"{path}: "
        _log.warning("taskobs relay: a file among the spools is skipped: %s%s", where, error)

    def _is_abandoned(self, path: Path, mine: Path) -> bool:
        try:
            owner = read_owner(path)
        except (OSError, ValueError):
            owner = None  # nobody says whose it is
        alive = None if owner is None else owner.alive()
        if alive is None:
            files = (path, *companions(path), lock_path(path))
            return self._watch.unchanged_for(path, files, self._clock()) >= UNCHANGED_FOR
        # A worker has one relay at a time: what an earlier relay of ours had is free.
        return not alive or (owner == self._owner and name_of(path) == name_of(mine))
