"""Finding the spools that no worker needs any more, so that another one exports what they hold."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from taskobs.relay.storage.spool_files import (
    SUFFIX,
    SpoolFile,
    UntrustedFileError,
    companions,
    lock,
    lock_path,
    name_of,
    read_owner,
)
from taskobs.relay.storage.spool_owner import UNCHANGED_FOR, ChangeWatch, Owner

_log: Final = logging.getLogger("taskobs.relay")
_WARNED: Final = 1_000


class AbandonedSpools:
    """Finds them in a directory, again and again. Not thread-safe."""

    def __init__(self, owner: Owner, clock: Callable[[], float] = time.monotonic) -> None:
        self._owner = owner
        self._clock = clock
        self._watch = ChangeWatch()
        self._warned: set[Path] = set()

    def find(self, mine: Path) -> Iterator[SpoolFile]:
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
                self.skip(path, error)
                continue
            if file is not None:
                try:
                    yield file
                finally:
                    file.unlock()

    def skip(self, path: Path, error: Exception) -> None:
        """Log, once, that a file is left alone."""
        if path in self._warned:
            return
        if len(self._warned) < _WARNED:
            self._warned.add(path)
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
