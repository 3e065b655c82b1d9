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

    def _call(self) -> None:
        self._action()

    def _made(self) -> type[Any]:
        seconds, call = self._seconds, self._call

        class Ticks(bootsteps.StartStopStep):
            """Starts the timer with each connection to the broker."""

            name = "taskobs-clock"
            entry: Any = None

            def start(self, parent: Any) -> None:
                self.entry = parent.timer.call_repeatedly(seconds, call)

            def stop(self, parent: Any) -> None:
                if self.entry is not None:
                    parent.timer.cancel(self.entry)
                    self.entry = None

        return Ticks


def _nothing() -> None:
    pass
