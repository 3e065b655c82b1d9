"""Which methods of which observers are called for a publish or a run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from taskobs.internal.guard import Guard
from taskobs.observers.base import Observer

if TYPE_CHECKING:  # the records take a third of what init() imports
    from taskobs.model import Publish, Run

Opener = Callable[[Any], AbstractContextManager[object]]


class ObserverCalls:
    """The methods that observers override, each looked up once; no others are called.

    Its lists are replaced when an observer comes or goes, never changed: a publish or run in
    another thread goes on with the list that it has begun with.
    """

    def __init__(self) -> None:
        self.use(())

    def use(self, observers: Sequence[Observer]) -> None:
        """Call these observers from now on, in their order."""
        self.publish: list[Opener] = _overridden(observers, "publish")
        self.canvas: list[Opener] = _overridden(observers, "canvas")
        self.sending: list[Callable[[Publish], None]] = _overridden(observers, "sending")
        self.run: list[Opener] = _overridden(observers, "run")
        self.ended: list[Callable[[Run], None]] = _overridden(observers, "ended")
        self.failed: list[Callable[[Run], None]] = _overridden(observers, "failed")


def _overridden(observers: Sequence[Observer], method: str) -> list[Any]:
    default = getattr(Observer, method)
    return [getattr(one, method) for one in observers if getattr(type(one), method) is not default]


def call_each(guard: Guard, calls: Sequence[Callable[[Any], object]], record: object) -> None:
    """Call each with the record; one that fails harms no other."""
    for call in calls:
        try:
            call(record)
        except Exception as error:  # noqa: PERF203  # free since Python 3.11
            if not guard.swallows(error):
                raise
