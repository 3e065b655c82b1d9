"""The shop, with runs that end in odd ways, and children that die once a run has succeeded."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, cast

from celery import signals
from opentelemetry import trace

from tests.live.apps.shop import app, slow

if TYPE_CHECKING:
    from celery import Task
    from opentelemetry.sdk.trace import TracerProvider

__all__ = ["app", "die_after", "gives_up", "slow", "stay"]

PATIENCE = 120.0


class StuckError(BaseException):
    """Can't travel between processes, as the timeouts of gevent can't."""

    def __init__(self) -> None:
        super().__init__()
        self.lock = Lock()


@app.task
def gives_up(how: str) -> None:
    """Raise what is no Exception."""
    raise {
        "cancelled": asyncio.CancelledError,
        "closed": GeneratorExit,
        "unpicklable": StuckError,
    }[how]


@app.task
def die_after() -> str:
    """Succeed; then the process is killed, once it has told all."""
    return "done"


@signals.worker_process_init.connect(weak=False)
def _connect(**_: Any) -> None:
    signals.task_postrun.connect(_die, weak=False)  # the last of the receivers


def _die(task: Task[Any, Any], **_: Any) -> None:
    if task.name == die_after.name:
        cast("TracerProvider", trace.get_tracer_provider()).force_flush()
        os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(PATIENCE)


@app.task(bind=True, acks_late=True)
def stay(self: Task[Any, Any], mark: str) -> str:
    """Stay until the message comes again."""
    if (self.request.delivery_info or {}).get("redelivered"):
        return "done"
    Path(mark).touch()
    time.sleep(PATIENCE)
    return "stayed"
