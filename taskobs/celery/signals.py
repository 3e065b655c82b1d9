"""The one connection between Celery's signals and this package's observers."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from taskobs.celery._types import App
from taskobs.celery.connect import connect
from taskobs.celery.observer_calls import ObserverCalls
from taskobs.celery.places import UID
from taskobs.celery.publish_signals import PublishSignals
from taskobs.celery.run_signals import RunSignals
from taskobs.internal.guard import Guard
from taskobs.observers.base import NOTHING, Observer

if TYPE_CHECKING:
    from taskobs.metrics.worker_table import WorkerTable


class TaskSignals:
    """Shows observers each publish and each run, while there is at least one observer.

    Not thread-safe to attach to or detach from; runs and publishes may be in any thread.
    """

    def __init__(self, guard: Guard, clock: Callable[[], float] = time.time) -> None:
        self.guard = guard
        self._observers: tuple[Observer, ...] = ()
        self._calls = ObserverCalls()
        self._publishes = PublishSignals(guard, self._calls)
        self._runs = RunSignals(guard, self._calls, clock)
        self._parts = (self._publishes, self._runs)

    def attach(self, observer: Observer, *, first: bool = False) -> None:
        """Show an observer all from now on; the first one opens first and closes last."""
        had = bool(self._observers)
        self._use((observer, *self._observers) if first else (*self._observers, observer))
        if not had:  # last: what is being sent at this moment is shown, too
            self._connect()

    def detach(self, observer: Observer) -> None:
        """Show an observer nothing more; without any, nothing of ours is left in Celery."""
        had = bool(self._observers)
        self._use(tuple(other for other in self._observers if other is not observer))
        if had and not self._observers:
            self._disconnect()

    def count_in(self, table: WorkerTable | None) -> None:
        """Have a worker that starts from now on count what it receives in a table."""
        self._runs.count_in(table)

    def worker_runs(self, worker: object) -> None:
        """Watch the requests of a worker, Celery's own object, that may have started before."""
        self._runs.worker_runs(worker)

    def beat_runs(self) -> None:
        """Watch the schedule of a beat that may have started before."""
        self._publishes.beat_runs()

    def publishing(
        self, app: App, task: str, options: Mapping[str, Any]
    ) -> AbstractContextManager[object]:
        """Return the block around a send that began before anybody observed."""
        return self._publishes.publishing(app, task, options) if self._observers else NOTHING

    def canvas(self, kind: str, options: Mapping[str, Any]) -> AbstractContextManager[object]:
        """Return the block around the sends of a canvas that began before anybody observed."""
        return self._publishes.canvas(kind, options) if self._observers else NOTHING

    def failed_unobserved(  # as the signal has them
        self, task: Any, task_id: str, error: BaseException, args: Any, kwargs: Any
    ) -> None:
        """Report the failure of a run that began before anybody observed, as it is signalled."""
        self._runs.failed_unobserved(task, task_id, error, args, kwargs)

    def _use(self, observers: tuple[Observer, ...]) -> None:
        self._observers = tuple(sorted(observers, key=lambda one: one.opens_last))
        self._calls.use(self._observers)

    def _connect(self) -> None:
        for part in self._parts:
            part.install()
            for signal, receiver in part.receivers:
                connect(signal, receiver, UID + receiver.__name__)

    def _disconnect(self) -> None:
        for part in self._parts:
            for signal, receiver in part.receivers:
                signal.disconnect(dispatch_uid=UID + receiver.__name__)
            part.remove()
