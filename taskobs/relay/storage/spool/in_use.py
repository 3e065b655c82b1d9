"""The spool's file in use: made, set aside if it is damaged, and written again if it was removed.

Somebody may remove or move the file, or its directory, while it is open. SQLite then goes on
without an error in a file that has no path; so the path is compared with the open file.
"""

from __future__ import annotations

import logging
import sqlite3
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

from taskobs.relay.storage.spool.directory import private_directory
from taskobs.relay.storage.spool.files import SpoolFile, lock_one
from taskobs.relay.storage.spool.rows import Rows
from taskobs.relay.storage.spool.schema import NotASpoolError, is_damage
from taskobs.relay.storage.spool.worker_process import WorkerProcess

_log: Final = logging.getLogger("taskobs.relay")
RETRY: Final = 5.0
"""Seconds between two attempts to write a removed file again."""


class SpoolInUse:
    """One open file. Raises ``OSError`` or ``sqlite3.Error`` if there can be none.

    ``longest``: see ``Rows``. Not thread-safe.
    """

    def __init__(
        self,
        directory: Path,
        worker: str,
        worker_process: WorkerProcess,
        longest: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._directory, self._worker, self._worker_process = directory, worker, worker_process
        self._longest, self._clock = longest, clock
        self._retry_at = 0.0
        self._warned = False
        self._damaged = False
        """The open file is damaged, and could not be replaced yet."""
        self._file = self._new_file()
        try:
            self.rows = self._open()
        except BaseException:
            self._file.unlock()  # else neither this process nor another one could use it later
            raise
        self._file.opened()

    @property
    def path(self) -> Path:
        """The file's path."""
        return self._file.path

    @property
    def closed(self) -> bool:
        """Whether it was closed."""
        return not self._file.locked

    def is_intact(self, *, at_last: bool = False) -> bool:
        """Return whether the file at the path is the open one; if not, try to write it again.

        It tries every few seconds, and with ``at_last`` in any case.
        """
        if not self._good and (at_last or self._clock() >= self._retry_at):
            self._retry_at = self._clock() + RETRY
            try:
                self._write_again()
            except (OSError, sqlite3.Error, NotASpoolError) as error:
                self._warn(error)
        self._warned = self._warned and not self._good
        return self._good

    def replace(self, error: Exception) -> None:
        """Set a damaged file aside, and continue with an empty one.

        Raises:
            OSError, sqlite3.Error: that can't be done; the rows are closed.
        """
        self._damaged = True
        with suppress(sqlite3.Error):
            self.rows.close()  # before the renaming: SQLite would go on in the renamed file
        self._set_aside(error)
        self.rows.reopen(self.path)
        self._file.opened()
        self._damaged = False

    def claim(self) -> None:
        """Show other relays that the file is in use; see ``SpoolFile.claim``."""
        self._file.claim(self._worker_process)

    def close(self) -> None:
        """Close the file and release its locks."""
        with suppress(sqlite3.Error):
            self.rows.close()  # first: see ``SpoolFile.unlock``
        self._file.unlock()

    def discard(self) -> None:
        """Close the file and delete it."""
        with suppress(sqlite3.Error):
            self.rows.close()
        self._file.discard()

    @property
    def _good(self) -> bool:
        return not self._damaged and not self._file.missing

    def _new_file(self) -> SpoolFile:
        return lock_one(private_directory(self._directory), self._worker, self._worker_process)

    def _open(self) -> Rows:
        try:
            return Rows(self.path, self._longest)
        except (NotASpoolError, sqlite3.Error) as error:
            if not is_damage(error):
                raise
            self._set_aside(error)
            return Rows(self.path, self._longest)

    def _set_aside(self, error: Exception) -> None:
        aside = self._file.set_aside()
        _log.warning(
            "taskobs relay: %s is not a usable spool (%s); set aside as %s",
            *(self.path, error, aside.name),
        )
        self._file.make()

    def _write_again(self) -> None:
        removed, old = self.path, self._file
        if self._damaged:
            self._move_to(self._new_file())
            old.unlock()
            return
        if old.removed:
            self._move_to(self._new_file())
            old.discard()
        else:  # the files that SQLite has beside it were removed: opening it makes them again
            self.rows.reopen(old.path)
            old.opened()
        _log.warning(
            "taskobs relay: the spool %s was removed while in use; what it held is written to %s",
            *(removed, self.path),
        )

    def _move_to(self, new: SpoolFile) -> None:
        try:
            if self._damaged:
                self.rows.reopen(new.path)
            else:
                self.rows.move_to(new.path)
        except BaseException:
            new.discard()
            raise
        new.opened()
        self._file, self._damaged = new, False

    def _warn(self, error: Exception) -> None:
        if not self._warned:
            _log.warning(
                "taskobs relay: the spool %s was removed while in use, and can't be written again: "
                "%s. What it held is lost if the relay is killed",
                *(self.path, error),
            )
        self._warned = True
