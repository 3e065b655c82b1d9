"""Receivers of Celery's signals that are connected before there is any observer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from celery import signals

from taskobs.celery.signals import TaskSignals

_PUBLISH_UID: Final = "taskobs.first_publish"
_FAILURE_UID: Final = "taskobs.failure"


class FirstPublish:
    """Calls ``action`` at the first publish of the process; later ones cost nothing."""

    def __init__(self, action: Callable[[], object]) -> None:
        self._action = action

    def install(self) -> None:
        """Connect to the signal."""
        signals.before_task_publish.connect(self._published, weak=False, dispatch_uid=_PUBLISH_UID)

    def remove(self) -> None:
        """Disconnect from it."""
        signals.before_task_publish.disconnect(dispatch_uid=_PUBLISH_UID)

    def _published(self, **_: Any) -> None:
        self.remove()
        self._action()


class FailureWatch:
    """Calls ``begin`` at each failure of a run, and reports the failure if that returns true.

    Another process of the worker may have set up Sentry since, which this process learns only by
    asking: ``begin`` starts to report failures if so.
    """

    def __init__(self, task_signals: TaskSignals, begin: Callable[[], bool]) -> None:
        self._task_signals = task_signals
        self._begin = begin

    def install(self) -> None:
        """Connect to the signal."""
        signals.task_failure.connect(self._failed, weak=False, dispatch_uid=_FAILURE_UID)

    def remove(self) -> None:
        """Disconnect from it."""
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
