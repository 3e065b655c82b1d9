"""Signals of Celery's that are watched before anything is observed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from celery import signals

from taskobs.celery.signals import TaskSignals

_PUBLISH_UID: Final = "taskobs.first_publish"
_FAILURE_UID: Final = "taskobs.failure"


class FirstPublish:
    """Calls ``action`` when the process publishes first; no later publish pays for it."""

    def __init__(self, action: Callable[[], object]) -> None:
        self._action = action

    def install(self) -> None:
        """Wait for it from now on."""
        signals.before_task_publish.connect(self._published, weak=False, dispatch_uid=_PUBLISH_UID)

    def remove(self) -> None:
        """Wait no more."""
        signals.before_task_publish.disconnect(dispatch_uid=_PUBLISH_UID)

    def _published(self, **_: Any) -> None:
        self.remove()
        self._action()


class FailureWatch:
    """Asks ``begin`` at each failure of a run whether somebody reports failures since just now.

    That one is reported too then: another process of the worker may have set up Sentry meanwhile,
    and nobody has told this one.
    """

    def __init__(self, task_signals: TaskSignals, begin: Callable[[], bool]) -> None:
        self._task_signals = task_signals
        self._begin = begin

    def install(self) -> None:
        """Watch from now on."""
        signals.task_failure.connect(self._failed, weak=False, dispatch_uid=_FAILURE_UID)

    def remove(self) -> None:
        """Watch no more."""
        signals.task_failure.disconnect(dispatch_uid=_FAILURE_UID)

    def _failed(
        self,
        *,
        sender: Any,
        task_id: str,
        exception: BaseException,
        args: Any = None,
        kwargs: Any = None,
        **_: Any,
    ) -> None:
        if self._begin():
            self._task_signals.failed_unobserved(sender, task_id, exception, args, kwargs)
