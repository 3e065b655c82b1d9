"""An app whose tasks write down what they do, so that metrics can be held to it.

Each line is one ``write`` to a file that is open for appending: what was done before a process was
killed stands there. With ``APP_METRICS``, the app has a MeterProvider of its own.
"""

from __future__ import annotations

import json
import os
import signal
import time
from importlib import import_module
from typing import TYPE_CHECKING, Any

from celery import Celery
from celery.exceptions import Ignore, Reject
from opentelemetry import metrics

import taskobs

if TYPE_CHECKING:
    from celery import Task

app = Celery("counted", broker=os.environ["APP_BROKER"], backend=os.environ["APP_BACKEND"])
app.conf.update(
    broker_connection_retry_on_startup=True,
    task_ignore_result=True,
    task_remote_tracebacks=False,
    # A child that takes longer to start is killed: by default after 4 s.
    worker_proc_alive_timeout=120,
)
app.conf.update(json.loads(os.environ.get("APP_CONFIG", "{}")))
session = taskobs.init()
task_log = os.open(os.environ["APP_TASK_LOG"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)


if "APP_METRICS" in os.environ:
    import_module("tests.live.apps.own_meters")
METER = metrics.get_meter("counted", "1.5")
RUNS = METER.create_counter("counted.runs", "{run}", "Runs that began.")


class ExpectedError(Exception):
    """What a task lists in ``throws``."""


def write(*words: object) -> None:
    """Measure a run, then write a line: what, which task, and the process.

    In this order: who reads the line may kill the process at once.
    """
    if words[0] == "run":
        kind = str(words[1])
        RUNS.add(1, {"kind": kind, "late": False})
        # Made anew each time, as some apps do.
        lengths = metrics.get_meter("counted", "1.5").create_histogram(
            "counted.length", "By", "Letters.", explicit_bucket_boundaries_advisory=[3, 5]
        )
        lengths.record(len(kind))
    os.write(task_log, (" ".join(map(str, (*words, os.getpid()))) + "\n").encode())


@app.task
def ok() -> None:
    """Succeed."""
    write("run", "ok")


@app.task
def fail() -> None:
    """Fail with an exception of the task's own."""
    write("run", "fail")
    raise ValueError


@app.task(throws=(ExpectedError,))
def expected() -> None:
    """Fail as expected."""
    write("run", "expected")
    raise ExpectedError


@app.task(bind=True, max_retries=2)
def again(self: Task[Any, Any]) -> None:
    """Succeed at the second attempt."""
    write("run", "again", self.request.retries)
    if self.request.retries == 0:
        raise self.retry(countdown=0)


@app.task
def ignore() -> None:
    """Have Celery ignore the result."""
    write("run", "ignore")
    raise Ignore


@app.task(acks_late=True)
def reject() -> None:
    """Have Celery reject the message."""
    write("run", "reject")
    raise Reject("no", requeue=False)


@app.task
def publish() -> None:
    """Publish two tasks."""
    ok.delay()
    write("published", "ok")
    ok.delay()
    write("published", "ok")
    write("run", "publish")


@app.task
def die() -> None:
    """Publish a task, and die."""
    ok.delay()
    write("published", "ok")
    write("run", "die")
    os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(60)


@app.task(soft_time_limit=3)
def soft() -> None:
    """Run into the soft time limit; it counts from before the body, where a busy machine may be."""
    write("run", "soft")
    time.sleep(60)


@app.task(time_limit=3)
def hard() -> None:
    """Run into the hard time limit; see `soft`."""
    write("run", "hard")
    time.sleep(60)


@app.task
def slow() -> None:
    """Wait to be killed by somebody else."""
    write("run", "slow")
    time.sleep(60)


@app.task
def never() -> None:
    """Do not run: it is revoked, or has expired."""
    write("run", "never")
