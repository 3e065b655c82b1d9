"""Tells whether a process still runs; ids are reused, so its start time is compared too."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Final

_STATE: Final = 0
_START_TIME: Final = 19
"""Field 22 of ``/proc/<pid>/stat``; here they are counted after the name. See proc(5)."""
_ENDED: Final = frozenset({"Z", "X", "x"})


def start_time(pid: int) -> int:
    """Return when a process started, in ticks since the boot; 0 if it has ended, or without /proc.

    Two processes that had the same id one after the other differ in it.
    """
    fields = _stat(pid)
    return int(fields[_START_TIME]) if fields else 0


def age(pid: int) -> float | None:
    """Return the seconds since a process started; None if it has ended, or without /proc."""
    started = start_time(pid)
    if not started:
        return None
    return time.clock_gettime(time.CLOCK_BOOTTIME) - started / os.sysconf("SC_CLK_TCK")


def alive(pid: int, started: int) -> bool:
    """Tell whether a process with this id and ``start_time`` runs; a zombie doesn't.

    Without ``/proc``, or with 0 for ``started``, the id alone is looked at.
    """
    fields = _stat(pid)
    if fields:
        return fields[_STATE] not in _ENDED and started in {0, int(fields[_START_TIME])}
    return _signalled(pid)


def _stat(pid: int) -> list[str]:
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    fields = text.rpartition(")")[2].split()
    return fields if len(fields) > _START_TIME else []


def _signalled(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except PermissionError:  # it runs, as another user
        return True
    except (OSError, OverflowError):
        return False
    return pid > 0
