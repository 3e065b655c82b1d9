"""Finds abandoned spools, and moves what they hold into the spool in use."""

from __future__ import annotations

import logging
import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from taskobs.relay.storage.items import ITEM_KINDS, ItemKind
from taskobs.relay.storage.spool.files import (
    SUFFIX,
    SpoolFile,
    UntrustedFileError,
    companions,
    lock,
    lock_path,
    name_of,
    read_worker_process,
)
from taskobs.relay.storage.spool.reader import SpoolReader
from taskobs.relay.storage.spool.rows import Rows, TakenOver
from taskobs.relay.storage.spool.schema import NotASpoolError, connect, is_damage
from taskobs.relay.storage.spool.worker_process import UNCHANGED_FOR, ChangeWatch, WorkerProcess

_log: Final = logging.getLogger("taskobs.relay")
_SKIPPED: Final = 1_000
"""How many files are remembered, so that each is logged once."""
_LOOK_AGAIN: Final = 3_600.0
"""Seconds after which a file that keeps envelopes is checked again; sooner if a process announces
another Sentry client."""
NOTHING: Final = TakenOver(0, [], dict.fromkeys(ITEM_KINDS, 0), 0)


class TakeOver:
    """Takes over the abandoned spools of a directory. Not thread-safe."""

    def __init__(
        self, worker_process: WorkerProcess, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._worker_process = worker_process
        self._clock = clock
        self._watch = ChangeWatch()
        self._skipped: set[Path] = set()
        self._left: dict[Path, tuple[int, int]] = {}
        """Files with envelopes that this worker can't send, and when that was checked."""

    def run(self, rows: Rows, reader: SpoolReader, age: float) -> TakenOver:
        """Move into ``rows`` what is not older than ``age`` and can be sent by this worker."""
        total = NOTHING
        for file in self._abandoned(rows.path):
            found = self._try_to_move(file, rows, reader, age)
            too_old: dict[ItemKind, int] = {
                kind: total.too_old[kind] + found.too_old[kind] for kind in ITEM_KINDS
            }
            total = TakenOver(
                total.moved + found.moved,
                [*total.starts, *found.starts],
                too_old,
                total.left + found.left,
            )
        return total

    def _try_to_move(
        self, file: SpoolFile, rows: Rows, reader: SpoolReader, age: float
    ) -> TakenOver:
        looked_at = (len(rows.destinations.dsns), int(self._clock() / _LOOK_AGAIN))
        if self._left.get(file.path) == looked_at:
            return NOTHING
        try:
            connect(file.path).close()  # checks it, which attaching it does not
            found = self._move(file, rows, reader, age)
        except (OSError, sqlite3.Error, NotASpoolError) as error:
            if is_damage(error):
                self._set_aside(file, error)
            else:
                self._skip(file.path, error)
            return NOTHING
        if found.left:
            self._left[file.path] = looked_at
        return found

    def _move(self, file: SpoolFile, rows: Rows, reader: SpoolReader, age: float) -> TakenOver:
        """Move what one file holds.

        Raises:
            OSError, sqlite3.Error: that can't be done, or the file can't be removed.
        """
        newest = reader.newest
        try:
            found = rows.take_over(file.path, newest, age)
        finally:
            # Also after an error: an id that is in the file must not be given again.
            reader.add_newer_than(newest)
        if found.moved or found.starts:
            _log.info("taskobs relay: %d items taken over from %s", found.moved, file.path.name)
        if not found.left:
            self._remove(file)
        return found

    def _remove(self, file: SpoolFile) -> None:
        try:
            file.remove()
        except OSError as error:  # it is empty by now: it may stay
            self._skip(file.path, error)

    def _set_aside(self, file: SpoolFile, error: Exception) -> None:
        try:
            aside = file.set_aside()
        except OSError as refused:
            self._skip(file.path, refused)
        else:
            _log.warning("taskobs relay: set %s aside as %s: %s", file.path, aside.name, error)

    def _abandoned(self, mine: Path) -> Iterator[SpoolFile]:
        """Yield, locked, each spool beside ``mine`` whose worker has ended.

        A file that can't be used is skipped. A file is unlocked when the next one is asked for.
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
        """Log, once for each file, that it is skipped."""
        if path in self._skipped:
            return
        if len(self._skipped) < _SKIPPED:
            self._skipped.add(path)
        where = "" if isinstance(error, UntrustedFileError) else f"{path}: "
        _log.warning("taskobs relay: a file among the spools is skipped: %s%s", where, error)

    def _is_abandoned(self, path: Path, mine: Path) -> bool:
        try:
            worker_process = read_worker_process(path)
        except (OSError, ValueError):
            worker_process = None  # unknown: only its age counts
        alive = None if worker_process is None else worker_process.alive()
        if alive is None:
            files = (path, *companions(path), lock_path(path))
            return self._watch.unchanged_for(path, files, self._clock()) >= UNCHANGED_FOR
        # A worker has one relay at a time: a spool that an earlier relay of it used is free.
        return not alive or (
            worker_process == self._worker_process and name_of(path) == name_of(mine)
        )
