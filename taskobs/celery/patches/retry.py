"""Retries that can't be published: Celery raises ``Reject`` for them, as if the task had."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from celery.app.task import Task
from celery.exceptions import Reject

from taskobs.internal.wrapping import Patches

Refused = Callable[[BaseException, object], None]


class RetryPatch:
    """Wraps ``Task.retry``, and reports what it raises when the next attempt could not be sent.

    ``refused`` is called with the ``Reject``, whose reason is why, and with the exception that the
    task is retried for, if any. A ``Reject`` that a task raises itself does not pass here.
    """

    def __init__(self, refused: Refused) -> None:
        self._refused = refused
        self._wrappers = Patches()

    def install(self) -> None:
        """Wrap it."""
        self._wrappers.wrap(Task, "retry", self._retry)

    def remove(self) -> None:
        """Unwrap it."""
        self._wrappers.remove()

    def _retry(
        self, retry: Callable[..., Any], _: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        try:
            return retry(*args, **kwargs)
        except Reject as error:
            # As in its signature: retry(args=None, kwargs=None, exc=None, ...).
            given = args[2] if len(args) > 2 else kwargs.get("exc")  # noqa: PLR2004
            self._refused(error, given)
            raise
