"""The spool's files: whose each is, who may use it, and what is done with a broken one.

Beside each ``NAME.spool`` is a ``NAME.lock``, which its relay holds locked and in which it says
for which worker: so another relay can tell a file that was left from one whose relay is being
restarted.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import socket
import time
from collections.abc import Iterator
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any, Final

_SUFFIX: Final = ".spool"
_COMPANIONS: Final = ("-wal", "-shm")
_STRANGERS_AGE: Final = 120.0
"""Seconds without a change after which a file of another host counts as left."""
_MANY: Final = 1_000


class SpoolFile:
    """A file that this process may use until ``unlock``."""

    def __init__(self, path: Path, lock: int) -> None:
        self.path = path
        self._lock = lock

    @property
    def locked(self) -> bool:
        """Whether it is ours still."""
        return self._lock >= 0

    def make(self) -> None:
        """Make it, for this user alone, if it isn't there."""
        os.close(os.open(self.path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600))

    def remove(self) -> None:
        """Delete it, and let it go."""
        for path in (self.path, *_companions(self.path), _lock_path(self.path)):
            path.unlink(missing_ok=True)
        self.unlock()

    def unlock(self) -> None:
        """Let others have it; twice is once."""
        lock, self._lock = self._lock, -1
        if lock >= 0:
            os.close(lock)


def lock_one(directory: Path, worker: str, worker_pid: int) -> SpoolFile:
    """Lock the file of ``worker``, or, while an earlier relay has it, one more beside it.

    ``owner`` is the process id of the worker. Raises ``OSError``.
    """
    name = re.sub(r"[^A-Za-z0-9._@-]", "_", worker)[:100].lstrip(".") or "worker"
    for number in count(1):
        path = directory / f"{name}{'' if number == 1 else f'+{number}'}{_SUFFIX}"
        locked = _lock(path, create=True)
        if locked is not None:
            _say_whose(locked, worker_pid)
            locked.make()
            return locked
        if number == _MANY:
            break
    raise OSError(f"{_MANY} spools of {name} are in use in {directory}")


def abandoned(directory: Path, mine: Path, worker_pid: int) -> Iterator[SpoolFile]:
    """Lock and give each other file of which neither relay nor worker is there any more.

    So is one beside ``mine`` of the same worker, whose process id is ``owner``: a worker has one
    relay at a time.
    """
    for path in sorted(directory.glob(f"*{_SUFFIX}")):
        beside = _name_of(path) == _name_of(mine) and _is_of(path, worker_pid)
        if path == mine or (_owned(path) and not beside):
            continue
        locked = _lock(path, create=True)
        if locked is not None:
            try:
                yield locked
            finally:
                locked.unlock()


def set_aside(path: Path) -> Path:
    """Rename a file, with what SQLite has beside it, so that it is in nobody's way."""
    aside = path.with_name(f"{path.name}.set-aside-{time.strftime('%Y%m%dT%H%M%S')}")
    for number in count(1):
        if not aside.exists():
            break
        aside = aside.with_name(f"{aside.name.partition('.again')[0]}.again-{number}")
    path.rename(aside)
    for companion in _companions(path):
        with suppress(FileNotFoundError):
            companion.rename(companion.with_name(companion.name.replace(path.name, aside.name)))
    return aside


def _companions(path: Path) -> list[Path]:
    return [path.with_name(path.name + suffix) for suffix in _COMPANIONS]


def _lock_path(path: Path) -> Path:
    return path.with_suffix(".lock")


def _lock(path: Path, *, create: bool) -> SpoolFile | None:
    """Lock a file, or return None: it is another's."""
    name = _lock_path(path)
    flags = os.O_RDWR | os.O_CLOEXEC | (os.O_CREAT if create else 0)
    while True:
        lock = os.open(name, flags, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(lock).st_ino == name.stat().st_ino:
                return SpoolFile(path, lock)
        except BlockingIOError:
            os.close(lock)
            return None
        except FileNotFoundError:
            pass  # whoever had it has removed it with its spool meanwhile
        os.close(lock)


def _say_whose(file: SpoolFile, worker_pid: int) -> None:
    _lock_path(file.path).write_text(json.dumps(_whose(worker_pid)))


def _whose(worker_pid: int) -> dict[str, object]:
    return {"host": socket.gethostname(), "pid": worker_pid, "started": _started(worker_pid)}


def _read_whose(path: Path) -> Any:  # noqa: ANN401  # whatever is written there
    """Read whose a file is; raises ``OSError`` or ``ValueError``."""
    return json.loads(_lock_path(path).read_text())


def _name_of(path: Path) -> str:
    return path.stem.partition("+")[0]  # no name has a "+" of its own


def _is_of(path: Path, worker_pid: int) -> bool:
    try:
        return bool(_read_whose(path) == _whose(worker_pid))
    except (OSError, ValueError):
        return False


def _owned(path: Path) -> bool:
    """Tell whether the worker of a file may be alive, and its relay about to be restarted."""
    try:
        whose = _read_whose(path)
        if whose["host"] == socket.gethostname():
            return _alive(int(whose["pid"])) and _started(int(whose["pid"])) == whose["started"]
    except (OSError, ValueError, LookupError, TypeError):
        pass  # nobody says whose it is
    return time.time() - _changed(path) < _STRANGERS_AGE


def _changed(path: Path) -> float:
    times = [0.0]
    for one in (path, *_companions(path)):
        with suppress(FileNotFoundError):
            times.append(one.stat().st_mtime)
    return max(times)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _started(pid: int) -> str:
    """Return what tells a process from a later one of the same id; "" where nothing does."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""
