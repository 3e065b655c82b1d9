"""An app that keeps a task_log of what its tasks do, which a SIGKILL does not take away.

Each line is one ``write`` to a file that is open for appending, so it is whole, and it is there
as soon as the call returns: what was done before the process was killed stands in the task_log.
"""

from __future__ import annotations

import json
import os
import secrets
import time
from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import sentry_sdk
from celery import Celery, signals
from opentelemetry import trace

import taskobs

if TYPE_CHECKING:
    from celery import Task

app = Celery("chaos", broker=os.environ["APP_BROKER"], backend=os.environ["APP_BACKEND"])
app.conf.update(
    broker_connection_retry_on_startup=True,
    task_ignore_result=True,
    task_remote_tracebacks=False,
    worker_prefetch_multiplier=4,
    # A child that takes longer to start is killed: by default after 4 s.
    worker_proc_alive_timeout=120,
)
app.conf.update(json.loads(os.environ.get("APP_CONFIG", "{}")))
session = taskobs.init()
tracer = trace.get_tracer("chaos")
task_log = os.open(os.environ["APP_TASK_LOG"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
LATE: Any = {"acks_late": True, "reject_on_worker_lost": True}


class AskedForError(Exception):
    """What a task raises because it was told to."""


def write(what: str, span: trace.Span, *more: object) -> None:
    """Write down that this has just happened to a span, or is about to."""
    address = span.get_span_context()
    ids = (f"{address.trace_id:032x}", f"{address.span_id:016x}")
    words = (what, os.getpid(), f"{time.time():.6f}", *ids, *more)
    os.write(task_log, (" ".join(map(str, words)) + "\n").encode())


@signals.before_task_publish.connect
def publishing(**_: object) -> None:
    """Write down the span of a publish, which has begun."""
    write("publish", trace.get_current_span())


@contextmanager
def inner(name: str, size: int = 0, *, at_start: bool = False) -> Generator[trace.Span]:
    """Make a span, and write down its start, that it is about to end, and that it has ended.

    It has an attribute of ``size`` characters, which compression does not make much shorter.
    """
    long = {"payload": secrets.token_hex(size)[:size]} if size else {}
    span = tracer.start_span(name, attributes=long if at_start else None)
    write("start", span, size)
    if not at_start:
        span.set_attributes(long)
    with trace.use_span(span):
        try:
            yield span
        finally:
            write("ending", span)
            span.end()
            write("end", span)


@contextmanager
def noted(task: Task[Any, Any]) -> Generator[None]:
    """Write down the begin of a run, and how its body ended."""
    span: Any = trace.get_current_span()
    parent = f"{span.parent.span_id:016x}" if getattr(span, "parent", None) else "-"
    write("run", span, task.request.id, task.name.rpartition(".")[2], parent)
    ending = "failing"
    try:
        yield
        ending = "done"
    except AskedForError:
        raise
    except BaseException:
        ending = "passing"  # a retry
        raise
    finally:
        write(ending, span)


@app.task(bind=True)
def short(self: Task[Any, Any], spans: int, seconds: float, fails: bool = False) -> None:  # noqa: FBT001, FBT002  # JSON
    """Make some spans one after the other, each of which takes that long; then fail if asked."""
    with noted(self):
        _steps(spans, seconds, fails=fails)


def _steps(spans: int, seconds: float, *, fails: bool) -> None:
    for number in range(spans):
        with inner(f"step {number}"):
            time.sleep(seconds)
    if fails:
        raise AskedForError


@app.task(bind=True)
def nested(self: Task[Any, Any], depth: int, seconds: float, fails: bool = False) -> None:  # noqa: FBT001, FBT002  # JSON
    """Make spans inside each other, with one that has ended before them; fail innermost."""
    with noted(self):
        _nest(depth, seconds, fails=fails)


def _nest(depth: int, seconds: float, *, fails: bool) -> None:
    with inner(f"leaf {depth}"):
        pass
    with inner(f"level {depth}"):
        if depth:
            _nest(depth - 1, seconds, fails=fails)
            return
        time.sleep(seconds)
        if fails:
            raise AskedForError


@app.task(bind=True, time_limit=1)
def limited(self: Task[Any, Any]) -> None:
    """Run into the hard time limit with spans open, and one that has ended."""
    with noted(self):
        _nest(1, 30, fails=False)


@app.task(bind=True)
def burst(self: Task[Any, Any], spans: list[int], attachments: list[int]) -> None:
    """Make spans of these sizes, and give Sentry events with attachments of these."""
    with noted(self):
        for number, size in enumerate(spans):
            with inner(f"long {number}", size, at_start=number % 2 == 1):
                pass
        for number, size in enumerate(attachments):
            with inner(f"capture {number}") as span:
                _capture(span, size)


def _capture(span: trace.Span, size: int) -> None:
    with sentry_sdk.new_scope() as scope:
        scope.add_attachment(bytes=secrets.token_bytes(size), filename="dump")
        write("capturing", span, size)
        write("captured", span, sentry_sdk.capture_message("see attachment") or "none")


@app.task(bind=True, max_retries=1)
def again(self: Task[Any, Any], seconds: float) -> None:
    """Fail once, be retried, and succeed."""
    with noted(self):
        with inner("attempt"):
            time.sleep(seconds)
        if not self.request.retries:
            raise self.retry(countdown=0, exc=AskedForError())


@app.task(bind=True)
def calls(self: Task[Any, Any], seconds: float) -> None:
    """Publish another task from within a span."""
    with noted(self), inner("call"):
        short.delay(1, seconds)


@app.task(bind=True, **LATE)
def late_short(self: Task[Any, Any], spans: int, seconds: float, fails: bool = False) -> None:  # noqa: FBT001, FBT002  # JSON
    """Do as `short`; when its process dies, its message goes back, and it runs again."""
    with noted(self):
        _steps(spans, seconds, fails=fails)


@app.task(bind=True, **LATE)
def late_nested(self: Task[Any, Any], depth: int, seconds: float, fails: bool = False) -> None:  # noqa: FBT001, FBT002  # JSON
    """Do as `nested`; when its process dies, its message goes back, and it runs again."""
    with noted(self):
        _nest(depth, seconds, fails=fails)
