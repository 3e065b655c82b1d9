"""A clock for what must be looked after while a worker runs, without a thread of its own."""

# What Celery hands out has no types worth the name.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from celery import bootsteps


class WorkerTimer:
    """Calls ``action`` every ``seconds``, on the timer that a worker has for its heartbeats.

    The worker's consumer begins anew after each loss of its broker, and clears the timer; a step
    of its start is called again. Not while a task runs in the worker itself (solo).
    """

    def __init__(self, action: Callable[[], object], seconds: float = 1.0) -> None:
        self._action = action
        self._seconds = seconds
        self._steps: Any = None
        self._step = self._made()

    def install(self, worker: Any) -> None:
        """Begin with the consumer of a worker that has not made it yet."""
        self._steps = worker.app.steps["consumer"]
        self._steps.add(self._step)

    def remove(self) -> None:
        """Call no more; a consumer that runs keeps a step that does nothing."""
        self._action = _nothing
        if self._steps is not None:
            self._steps.discard(self._step)
            self._steps = None

    def _call(self) -> None:
        self._action()

    def _made(self) -> type[Any]:
        seconds, call = self._seconds, self._call

        class Ticks(bootsteps.StartStopStep):
            """Starts the ticks with each connection to the broker."""

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
