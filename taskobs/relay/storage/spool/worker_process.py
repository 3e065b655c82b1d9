"""The worker process that uses a spool, and whether it may still need it.

A relay that dies is restarted by its worker within half a minute. Until then the lock of its spool
is free, and the spool must not be taken over. So the lock file names the worker process.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

from taskobs.internal import pids

UNCHANGED_FOR: Final = 120.0
"""Seconds without a change after which a spool counts as abandoned where its worker can't be seen:
on another host, in another container. A relay touches its lock file every half minute."""
_WATCHED: Final = 1_000


class WorkerProcess(NamedTuple):
    """Identifies a worker's main process: a pid is unique within a boot and a pid namespace."""

    host: str
    boot: str
    pid_namespace: str
    pid: int
    started: int
    """See ``pids.start_time``."""

    @classmethod
    def of(cls, pid: int) -> WorkerProcess:
        """Return the identity of a process of this machine."""
        return cls(socket.gethostname(), boot_id(), _pid_namespace(), pid, pids.start_time(pid))

    @classmethod
    def parse(cls, text: str) -> WorkerProcess:
        """Read what ``dumps`` has written.

        Raises:
            ValueError: it is something else.
        """
        match json.loads(text):
            case {
                "host": str(host),
                "boot": str(boot),
                "pid_namespace": str(pid_namespace),
                "pid": int(pid),
                "started": int(started),
            }:
                return cls(host, boot, pid_namespace, pid, started)
            case _:
                raise ValueError("not a worker process that uses a spool")

    def dumps(self) -> str:
        """Return it as JSON."""
        return json.dumps(self._asdict())

    def alive(self) -> bool | None:
        """Return whether it runs; None if that can't be seen from here."""
        # Without the same boot and namespace, its pid may be another process's here.
        if (self.host, self.boot, self.pid_namespace) != WorkerProcess.of(0)[:3]:
            return None
        return pids.alive(self.pid, self.started)


class ChangeWatch:
    """Measures for how long a spool has not changed, as seen by this process.

    It compares times of change with each other and never with a clock: the host that wrote the
    files may have another time, and a clock may be set.
    """

    def __init__(self) -> None:
        self._seen: dict[Path, tuple[object, float]] = {}

    def unchanged_for(self, path: Path, files: Sequence[Path], now: float) -> float:
        """Return for how many seconds the ``files`` of a spool are as they were; 0 at first."""
        state = [_state(one) for one in files]
        last, since = self._seen.get(path, (None, now))
        if last != state:
            since = now
        if path not in self._seen and len(self._seen) >= _WATCHED:
            self._seen.clear()
        self._seen[path] = state, since
        return now - since


def _state(path: Path) -> tuple[int, int, int] | None:
    with suppress(OSError):
        found = path.lstat()
        return found.st_ino, found.st_size, found.st_mtime_ns
    return None


def boot_id() -> str:
    """Return what tells this boot of the machine from others; "" where nothing does."""
    with suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    return ""


def _pid_namespace() -> str:
    with suppress(OSError):
        return str(Path("/proc/self/ns/pid").readlink())
    return ""
