"""An app whose session begins while the worker starts, or begins again while it runs."""

from __future__ import annotations

import os
from typing import Any

from celery import Celery, signals

import taskobs

app = Celery("late", broker=os.environ["APP_BROKER"], backend=os.environ["APP_BACKEND"])
app.conf.broker_connection_retry_on_startup = True

if os.environ.get("APP_OPENS") == "again":
    first = taskobs.init()

    @signals.worker_ready.connect(weak=False)
    def _again(**_: Any) -> None:
        first.close()
        taskobs.init()

else:

    @signals.worker_init.connect(weak=False)
    def _add_sentry(**_: Any) -> None:
        taskobs.init()


@app.task
def add(x: int, y: int) -> int:
    """Succeed."""
    return x + y
