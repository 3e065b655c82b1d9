"""Watches the requests of a worker, once this process is known to be one."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from celery import signals

if TYPE_CHECKING:
    from taskobs.celery.patches.own_traffic import WorkerTraffic
    from taskobs.celery.patches.request import Report, RequestPatch
    from taskobs.metrics.worker_table import WorkerTable


class WorkerRequests:
    """Extends the requests of a worker that starts, and of one that runs already."""

    def __init__(self, report: Report) -> None:
        self._report = report
        self._patches: tuple[RequestPatch, WorkerTraffic] | None = None
        self._table: WorkerTable | None = None
        self.receivers: tuple[tuple[Any, Callable[..., None]], ...] = (
            (signals.worker_init, self._worker_starts),
            (signals.celeryd_after_setup, self._worker_starts),  # of a session from worker_init
        )

    def count_in(self, table: WorkerTable | None) -> None:
        """Have a worker that starts from now on count what it receives there."""
        self._table = table
        if self._patches is not None:
            self._patches[0].table = table

    def install(self) -> None:
        """Watch a worker that runs on, after a time in which nobody observed."""
        for patch in self._patches or ():
            patch.install()

    def remove(self) -> None:
        """Watch no more."""
        for patch in self._patches or ():
            patch.remove()

    def worker_runs(self, worker: object) -> None:
        """Watch a worker that may have started before anybody observed."""
        patched = self._patches is not None
        self._worker_starts()
        consumer: Any = getattr(worker, "consumer", None)
        if getattr(consumer, "strategies", None) and not patched:
            # A consumer makes the request class of each task once, when it starts. It does this
            # after each loss of its broker, too.
            consumer.update_strategies()

    def _worker_starts(self, **_: Any) -> None:
        # They import the worker's modules.
        from taskobs.celery.patches.own_traffic import WorkerTraffic
        from taskobs.celery.patches.request import RequestPatch

        if self._patches is None:
            self._patches = RequestPatch(self._report), WorkerTraffic()
            self.install()
        self._patches[0].table = self._table
