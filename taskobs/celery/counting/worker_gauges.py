"""What a worker is at this moment: what it runs and holds, its limits, its memory."""

# What Celery hands out has no types worth the name.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from celery.worker import state

from taskobs.celery import _compat
from taskobs.internal.guard import Guard
from taskobs.metrics.histogram import OTHER
from taskobs.metrics.worker_families import Gauges
from taskobs.metrics.worker_table import MAX_TASKS

_PAGE: Final = os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 4_096
_RESIDENT: Final = 1
"""Field of ``/proc/<pid>/statm``; see proc(5)."""


class WorkerGauges:
    """Reads the state of a worker (Celery's object), in its own event loop."""

    def __init__(self, worker: Any) -> None:
        self._worker = worker
        self._guard = Guard()

    def read(self, relay_pid: int | None) -> Gauges:
        """Return the state now; what this release of Celery doesn't say is missing."""
        found = Gauges(heartbeat=time.time())
        for part in (self._read_tasks, self._read_limits):
            with self._guard:
                part(found)
        with self._guard:
            found.memory = self._memory(relay_pid)
        return found

    def _read_tasks(self, found: Gauges) -> None:
        active = list(state.active_requests)
        reserved = len(state.reserved_requests) - len(active)
        tasks = {"active": len(active), "reserved": max(0, reserved)}
        scheduled = _compat.scheduled_requests(getattr(self._worker, "consumer", None))
        found.tasks = tasks if scheduled is None else {**tasks, "scheduled": scheduled}
        found.oldest = _oldest(active, found.heartbeat)

    def _read_limits(self, found: Gauges) -> None:
        worker = self._worker
        limit = getattr(getattr(worker, "pool", None), "num_processes", None)
        found.pool_limit = limit if isinstance(limit, int) else None
        qos = getattr(getattr(worker, "consumer", None), "qos", None)
        prefetch = getattr(qos, "value", None)
        found.prefetch_limit = prefetch if isinstance(prefetch, int) else None

    def _memory(self, relay_pid: int | None) -> dict[str, int]:
        children = _compat.pool_pids(getattr(self._worker, "pool", None))
        found = {"main": _resident([os.getpid()]), "pool": _resident(children)}
        if relay_pid is not None:
            found["relay"] = _resident([relay_pid])
        return {kind: size for kind, size in found.items() if size}


def _oldest(active: Iterable[Any], now: float) -> dict[str, float]:
    found: dict[str, float] = {}
    for request in active:
        name, started = request.task.name, request.time_start
        if started is None:
            continue
        if name not in found and len(found) >= MAX_TASKS:
            name = OTHER
        found[name] = max(found.get(name, 0.0), now - started)
    return found


def _resident(processes: Iterable[int]) -> int:
    """Return the resident bytes of processes; 0 where the system does not say."""
    return sum(map(_pages, processes)) * _PAGE


def _pages(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[_RESIDENT])
    except (OSError, ValueError, IndexError):  # it has just ended, or there is no /proc
        return 0
