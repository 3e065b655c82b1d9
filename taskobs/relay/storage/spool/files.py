"""Locks the files of a spool, and refuses those that other users can write to.

Beside each ``NAME.spool`` is a ``NAME.lock``. The relay that uses the spool holds a lock on both,
so that removing the lock file releases nothing. A file is refused if it is a link, or if another
user owns it or may write to it.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import re
import stat
import struct
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

from taskobs.relay.storage.spool.worker_process import WorkerProcess

SUFFIX: Final = ".spool"
_COMPANIONS: Final = ("-wal", "-shm")
_MANY: Final = 1_000
_OTHERS_WRITE: Final = stat.S_IWGRP | stat.S_IWOTH
_LOCKED_BYTE: Final = 1 << 62
"""SQLite locks bytes from 1 GiB on; this one is far beyond them."""
_log: Final = logging.getLogger("taskobs.relay")


class UntrustedFileError(OSError):
    """A file is a link, no regular file, or another user's, or other users can write to it."""


class SpoolFile:
    """A spool that this process has locked, until ``unlock``."""

    def __init__(self, path: Path, lock: int, data: int) -> None:
        self.path = path
        self._lock, self._data = lock, data
        self._files = {path: _identity(os.fstat(data))}

    @property
    def locked(self) -> bool:
        """Whether this process still has the lock."""
        return self._lock >= 0

    @property
    def missing(self) -> bool:
        """Whether one of its files was removed or replaced: what is written now would be lost."""
        return any(_identity_of(path) != identity for path, identity in self._files.items())

    @property
    def removed(self) -> bool:
        """Whether the data file itself was removed or replaced."""
        return _identity_of(self.path) != self._files[self.path]

    def opened(self) -> None:
        """Note which files SQLite has made beside it; to be called after it was opened."""
        found = {path: _identity_of(path) for path in (self.path, *companions(self.path))}
        self._files.update(
            {path: identity for path, identity in found.items() if identity is not None}
        )

    def claim(self, worker_process: WorkerProcess) -> None:
        """Touch the lock file, as a sign of life; make it again if it was removed."""
        path = lock_path(self.path)
        if _identity_of(path) == _identity(os.fstat(self._lock)):
            os.utime(self._lock)  # relays on other hosts can't see this worker, only this time
            if not os.fstat(self._lock).st_size:
                os.write(self._lock, worker_process.dumps().encode())
            return
        lock = _open_ours(path, os.O_CREAT)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:  # another relay checks it; the lock on the data stops that one
            os.close(lock)
            return
        os.close(self._lock)  # only now: at no instant is there no lock
        self._lock = lock
        os.write(lock, worker_process.dumps().encode())
        _log.warning("taskobs relay: the lock file %s was removed, made it again", path)

    def set_aside(self) -> Path:
        """Rename it, with the files that SQLite has beside it, to make room for a new one.

        Only when it is not open in SQLite.
        """
        aside = _free_name(self.path)
        self.path.rename(aside)
        for companion in companions(self.path):
            with suppress(FileNotFoundError):
                companion.rename(
                    aside.with_name(companion.name.replace(self.path.name, aside.name))
                )
        return aside

    def make(self) -> None:
        """Make an empty file where the old one was set aside."""
        # O_EXCL: another process may have made a file there meanwhile.
        data = _open_ours(self.path, os.O_CREAT | os.O_EXCL)
        _lock_byte(data)
        os.close(self._data)
        self._data = data
        self._files = {self.path: _identity(os.fstat(data))}

    def remove(self) -> None:
        """Delete it.

        Raises:
            OSError: the directory doesn't allow it.
        """
        for path in (self.path, *companions(self.path), lock_path(self.path)):
            path.unlink(missing_ok=True)

    def discard(self) -> None:
        """Unlock it, and delete those of its files that are still at their paths."""
        with suppress(OSError):
            if not self.removed:
                for path in (self.path, *companions(self.path)):
                    path.unlink(missing_ok=True)
            if _leads_to(lock_path(self.path), self._lock):
                lock_path(self.path).unlink()
        self.unlock()

    def unlock(self) -> None:
        """Release the locks; a second call does nothing. Only when it is not open in SQLite."""
        # Closing any descriptor of a file releases all POSIX locks that the process has on it, so
        # also those of SQLite.
        held, self._lock, self._data = (self._lock, self._data), -1, -1
        for descriptor in held:
            if descriptor >= 0:
                os.close(descriptor)


def lock_one(directory: Path, worker: str, worker_process: WorkerProcess) -> SpoolFile:
    """Lock the spool of ``worker``, or another one beside it while an earlier relay has that.

    Raises ``OSError``.
    """
    name = re.sub(r"[^A-Za-z0-9._@-]", "_", worker)[:100].lstrip(".") or "worker"
    for number in range(1, _MANY + 1):
        path = directory / f"{name}{'' if number == 1 else f'+{number}'}{SUFFIX}"
        try:
            file = lock(path, create=True)
        except UntrustedFileError as error:
            _log.warning("taskobs relay: %s; another file is used", error)
            continue
        if file is not None:
            _overwrite_worker_process(file, worker_process)
            return file
    raise OSError(f"{_MANY} spools of {name} are in use in {directory}")


def lock(path: Path, *, create: bool = False) -> SpoolFile | None:
    """Lock a spool; None if another relay has it.

    Raises:
        UntrustedFileError: it is not ours alone.
        FileNotFoundError: there is none, and ``create`` is not set.
        OSError: it can't be opened.
    """
    if not create:
        _close(_open_ours(path))  # no lock file is made beside a file that is refused
    for companion in companions(path):
        with suppress(FileNotFoundError):
            _check(companion, companion.lstat())
    while True:
        held = _open_ours(lock_path(path), os.O_CREAT)
        data = -1
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            data = _open_ours(path, os.O_CREAT if create else 0)
            _lock_byte(data)
            # Its last user may have removed the files between the opening and the locking.
            if _leads_to(lock_path(path), held) and _leads_to(path, data):
                return SpoolFile(path, held, data)
        except BlockingIOError:
            _close(held, data)
            return None
        except BaseException:
            _close(held, data)
            raise
        _close(held, data)


def lock_path(path: Path) -> Path:
    """Return the lock file of a spool."""
    return path.with_suffix(".lock")


def companions(path: Path) -> list[Path]:
    """Return the files that SQLite has beside a spool while it is open."""
    return [path.with_name(path.name + suffix) for suffix in _COMPANIONS]


def name_of(path: Path) -> str:
    """Return the worker's part of a spool's name."""
    return path.stem.partition("+")[0]  # no name has a "+" of its own


def read_worker_process(path: Path) -> WorkerProcess:
    """Return the worker process that uses a spool, from its lock file.

    Raises:
        OSError: the lock file is missing or refused.
        ValueError: it is empty or malformed.
    """
    descriptor = _open_ours(lock_path(path), flags=os.O_RDONLY)
    with os.fdopen(descriptor, encoding="utf-8") as file:
        return WorkerProcess.parse(file.read(_MANY))


def _overwrite_worker_process(file: SpoolFile, worker_process: WorkerProcess) -> None:
    # Closing this second descriptor keeps the lock: ``flock`` belongs to the first one's open file.
    descriptor = _open_ours(lock_path(file.path))
    try:
        os.ftruncate(descriptor, 0)
        os.write(descriptor, worker_process.dumps().encode())
    finally:
        os.close(descriptor)


def _free_name(path: Path) -> Path:
    aside = path.with_name(f"{path.name}.set-aside-{time.strftime('%Y%m%dT%H%M%S')}")
    names = (aside, *(aside.with_name(f"{aside.name}.again-{n}") for n in range(1, _MANY)))
    return next((name for name in names if _identity_of(name) is None), aside)


def _open_ours(path: Path, create: int = 0, *, flags: int = os.O_RDWR) -> int:
    """Open a file that only this user can write to.

    Raises:
        UntrustedFileError: it is refused.
        OSError: it can't be opened.
    """
    # O_NONBLOCK: opening a FIFO that somebody put there would block.
    always = os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
    try:
        descriptor = os.open(path, flags | create | always, 0o600)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise UntrustedFileError(f"{path} is a link") from error
        if error.errno in {errno.EACCES, errno.EPERM, errno.EISDIR, errno.ENXIO}:
            raise UntrustedFileError(f"{path} can't be opened: {error.strerror}") from error
        raise
    try:
        _check(path, os.fstat(descriptor))
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _check(path: Path, found: os.stat_result) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise UntrustedFileError(f"{path} is not a regular file")
    if found.st_uid != os.geteuid():
        raise UntrustedFileError(f"{path} belongs to user {found.st_uid}")
    if found.st_mode & _OTHERS_WRITE:
        raise UntrustedFileError(f"{path} may be written to by other users")
    if found.st_nlink > 1:
        raise UntrustedFileError(f"{path} has a second name")


def _lock_byte(descriptor: int) -> None:
    """Lock a byte of the data by an open file description lock; without these, do nothing.

    On NFS, ``flock`` would conflict with SQLite's own locks on the data, and a lock by ``lockf`` is
    released when SQLite closes the file.

    Raises:
        BlockingIOError: another relay has it.
    """
    number: int | None = getattr(fcntl, "F_OFD_SETLK", None)
    if number is None:
        return
    # struct flock: type, whence, start, length, pid (which has to be 0).
    wanted = struct.pack("@hhqqi0q", fcntl.F_WRLCK, os.SEEK_SET, _LOCKED_BYTE, 1, 0)
    try:
        fcntl.fcntl(descriptor, number, wanted)
    except BlockingIOError:
        raise
    except OSError:  # the file system has no such locks
        _log.debug("taskobs relay: the spool's data can't be locked", exc_info=True)


def _leads_to(path: Path, descriptor: int) -> bool:
    return _identity_of(path) == _identity(os.fstat(descriptor))


def _identity_of(path: Path) -> tuple[int, int] | None:
    try:
        return _identity(path.lstat())
    except OSError:
        return None


def _identity(found: os.stat_result) -> tuple[int, int]:
    return found.st_dev, found.st_ino


def _close(*descriptors: int) -> None:
    for descriptor in descriptors:
        if descriptor >= 0:
            os.close(descriptor)
