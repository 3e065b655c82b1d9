"""The app of the workers that are measured: set up as ``BENCH_SETUP`` says."""

from __future__ import annotations

import os
import time

from celery import Celery

from bench.peers import installed
from bench.setups import WORKER_SETUPS, Target

app = Celery("bench", broker=os.environ["BENCH_BROKER"])
app.conf.update(task_ignore_result=True, broker_connection_retry_on_startup=True)
(WORKER_SETUPS | installed())[os.environ["BENCH_SETUP"]](
    Target(os.environ["BENCH_ENDPOINT"], os.environ["BENCH_DSN"], os.environ["BENCH_AGENT"])
)


@app.task
def noop() -> None:
    """Do nothing."""


@app.task
def nap(seconds: float) -> None:
    """Wait, as for a database or another service."""
    time.sleep(seconds)
