"""Counts the ends of pool processes, by why they ended."""

# What Celery hands out has no types worth the name.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final
from weakref import WeakSet

from billiard.pool import EX_OK, EX_RECYCLE, Pool
from celery.concurrency.asynpool import AsynPool

from taskobs.internal.guard import Guard
from taskobs.internal.wrapping import Patches
from taskobs.metrics.worker_table import WorkerTable

SIGNAL: Final = "signal"
LIMIT: Final = "limit"
RECYCLED: Final = "recycled"
STOPPED: Final = "stopped"
ERROR: Final = "error"
REASONS: Final = (SIGNAL, LIMIT, RECYCLED, STOPPED, ERROR)


class PoolExits:
    """Counts each process of a prefork pool that has ended, with the reason.

    A pool calls ``process_flush_queues`` for each such process, some pools twice (seen in
    billiard 4.2 to 4.3, Celery 5.3 to 5.7).
    """

    def __init__(self, table: WorkerTable) -> None:
        self._table = table
        self._guard = Guard()
        self._patches = Patches()
        self._seen: WeakSet[Any] = WeakSet()

    def install(self) -> None:
        """Count from now on."""
        for reason in REASONS:
            # From the start: Prometheus counts no rise of a series that it first sees at 1.
            self._table.exits.setdefault(reason, 0)
        for pool in (Pool, AsynPool):
            self._patches.wrap(pool, "process_flush_queues", self._flush)

    def remove(self) -> None:
        """Count no more."""
        self._patches.remove()

    def _flush(
        self, flush: Callable[..., Any], _: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        with self._guard:
            self._note(args[0] if args else next(iter(kwargs.values())))
        return flush(*args, **kwargs)

    def _note(self, process: Any) -> None:
        if process in self._seen or process.exitcode is None:
            return
        self._seen.add(process)
        limited = process.pid in self._table.over_limit
        self._table.over_limit.discard(process.pid)
        self._table.process_exited(LIMIT if limited else _reason(process.exitcode))


def _reason(code: int) -> str:
    if code < 0:
        return SIGNAL
    return {EX_RECYCLE: RECYCLED, EX_OK: STOPPED}.get(code, ERROR)
