"""Which worker a spool belongs to, and whether that worker may still need it.

A relay that dies is restarted by its worker within half a minute; meanwhile nobody holds the lock
of its spool, which must not be taken over. So the spool's lock file says whose it is.
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
"""Seconds without a change after which a spool counts as abandoned where its owner can't be seen:
on another host, in another container. Live owners touch their lock file every half minute."""
_WATCHED: Final = 1_000


class WorkerProcess(NamedTuple):
    """A worker, by its process; ids of processes mean something within one namespace and boot."""

    host: str
    boot: str
    pid_namespace: str
    pid: int
    started: int
    """See ``pids.start_time``."""

    @classmethod
    def of(cls, pid: int) -> WorkerProcess:
        """Return the owner that a process of this machine is."""
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
        """Tell whether it runs; None if that can't be seen from here."""
        if (self.host, self.boot, self.pid_namespace) != WorkerProcess.of(0)[:3]:
            return None
        return pids.alive(self.pid, self.started)


class ChangeWatch:
    """Tells for how long a spool has not changed, as this process has seen it.

    It compares times of change with each other and never with a clock, because the host that
    wrote the files may have another time, and a clock may be set.
    """

    def __init__(self) -> None:
        self._seen: dict[Path, tuple[object, float]] = {}

    def unchanged_for(self, path: Path, files: Sequence[Path], now: float) -> float:
        """Return for how many seconds the ``files`` of a spool are as they were; 0 at first."""
        state = [_state(one) for one in files]
        known, since = self._seen.get(path, (None, now))
        if known != state:
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
