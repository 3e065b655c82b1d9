"""Calls a function at intervals while a worker runs, on the worker's own timer."""

# What Celery hands out has no types worth the name.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from celery import bootsteps


class WorkerTimer:
    """Calls ``action`` every ``seconds``, on the timer that a worker has for its heartbeats.

    The worker's consumer restarts after each loss of its broker and clears the timer. A bootstep is
    started again with it. With the solo pool, no call is made while a task runs.
    """

    def __init__(self, action: Callable[[], object], seconds: float = 1.0) -> None:
        self._action = action
        self.starts = 0
        """How often the worker has connected to its broker."""
        self._seconds = seconds
        self._steps: Any = None
        self._step = self._made()

    def install(self, worker: Any) -> None:
        """Add the step to a worker's consumer; call it before the worker makes that."""
        self._steps = worker.app.steps["consumer"]
        self._steps.add(self._step)

    def remove(self) -> None:
        """Stop calling; a running consumer keeps a step that does nothing."""
        self._action = _nothing
        if self._steps is not None:
            self._steps.discard(self._step)
            self._steps = None

    def _started(self) -> None:
        self.starts += 1

    def _call(self) -> None:
        self._action()

    def _made(self) -> type[Any]:
        seconds, call, started = self._seconds, self._call, self._started

        class Ticks(bootsteps.StartStopStep):
            """Starts the timer with each connection to the broker."""

            name = "taskobs-clock"
            entry: Any = None

            def start(self, parent: Any) -> None:
                started()
                self.entry = parent.timer.call_repeatedly(seconds, call)

            def stop(self, parent: Any) -> None:
                if self.entry is not None:
                    parent.timer.cancel(self.entry)
                    self.entry = None

        return Ticks


class RunningWorker:
    """The worker that runs in this process (Celery's object), if one does, and its timer."""

    def __init__(self, action: Callable[[], object]) -> None:
        self._action = action
        self._timer: WorkerTimer | None = None
        self.worker: Any = None

    @property
    def connections(self) -> int:
        """How often the worker has connected to its broker."""
        return 0 if self._timer is None else self._timer.starts

    def began(self, worker: Any) -> None:
        """Note the worker, and call the action once a second while it runs."""
        if self._timer is None and hasattr(worker, "app"):
            self._timer = WorkerTimer(self._action)
            self._timer.install(worker)
        self.worker = worker

    def stop_timer(self) -> None:
        """Call the action no more."""
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.remove()

    def after_fork(self) -> None:
        """In a forked child: forget the parent's worker and timer."""
        self.worker = self._timer = None


def _nothing() -> None:
    pass
