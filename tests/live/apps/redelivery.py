"""The shop, with tasks whose message comes a second time."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.live.apps.shop import app

if TYPE_CHECKING:
    from celery import Task

__all__ = ["app", "die_once", "meet_again"]

PATIENCE = 120.0


def comes_again(task: Task[Any, Any]) -> bool:
    """Tell whether this delivery is not the first."""
    return bool((task.request.delivery_info or {}).get("redelivered"))


@app.task(bind=True, acks_late=True, reject_on_worker_lost=True)
def die_once(self: Task[Any, Any]) -> str:
    """Be killed, as for want of memory; the next time, succeed."""
    if not comes_again(self):
        os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(PATIENCE)
    return "done"


@app.task(bind=True, acks_late=True)
def meet_again(self: Task[Any, Any], mark: str) -> str:
    """Take so long that the message comes again; the second run ends the first."""
    if comes_again(self):
        Path(mark).touch()
        return "second"
    deadline = time.monotonic() + PATIENCE
    while not Path(mark).exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    return "first"
