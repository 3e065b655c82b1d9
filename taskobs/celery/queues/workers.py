"""Asks the workers which queues they consume from."""

from __future__ import annotations

from typing import Any, Final

from taskobs.celery._types import App
from taskobs.celery.queues.discovery import consumed_queues

REPLY_TIME: Final = 1.0
"""Seconds in which workers must answer; each poll takes as long, as their number is not known."""


class WorkersUnknown(Exception):  # noqa: N818  # no error: the reason why they can't be asked
    """Workers can't be asked; the message says why."""


def ask_workers(app: App, connection: Any) -> dict[str, int]:
    """Return how many workers consume from each queue.

    Raises:
        WorkersUnknown: the app, or its transport, has no remote control.
    """
    celery: Any = app
    if not celery.conf.worker_enable_remote_control:
        raise WorkersUnknown("worker_enable_remote_control is off, so workers can't be asked")
    if not connection.supports_exchange_type("fanout"):
        raise WorkersUnknown("this transport has no remote control, so workers can't be asked")
    inspect = celery.control.inspect(connection=connection, timeout=REPLY_TIME)
    return consumed_queues(inspect.active_queues() or {})
