"""The patch in beat: which entry of the schedule a publish is for.

All schedulers publish through ``Scheduler.apply_async``, including those of redbeat and
django-celery-beat.
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

from taskobs.internal.wrapping import Patches
from taskobs.model import Schedule

_due: ContextVar[Schedule | None] = ContextVar("taskobs_due", default=None)


class BeatPatch:
    """Wraps the publish of an entry that is due, from ``install`` to ``remove``."""

    def __init__(self, schedule_of: Callable[[Any], Schedule | None]) -> None:
        self._schedule_of = schedule_of
        self._wrappers = Patches()

    def install(self) -> None:
        """Wrap ``Scheduler.apply_async``; only beat has its module loaded."""
        from celery.beat import Scheduler

        self._wrappers.wrap(Scheduler, "apply_async", self._send_due)

    def remove(self) -> None:
        """Unwrap it."""
        self._wrappers.remove()

    def take(self) -> Schedule | None:
        """Return the entry that is due, once: one tick publishes one message."""
        found = _due.get()
        if found is not None:
            _due.set(None)
        return found

    def _send_due(
        self, send: Callable[..., Any], _: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        entry = args[0] if args else kwargs.get("entry")
        token = _due.set(self._schedule_of(entry))
        try:
            return send(*args, **kwargs)
        finally:
            _due.reset(token)
