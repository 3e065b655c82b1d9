"""Counts what Celery and observers do, where timing it would depend on the machine."""

from __future__ import annotations

import gc
import sys
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from statistics import median
from types import FrameType
from typing import Any

from celery import Celery, signals
from celery.app.trace import build_tracer
from opentelemetry.trace import Span, SpanKind, Tracer

import taskobs

Job = Callable[[], object]

PACKAGE = str(Path(taskobs.__file__).parent)
INLINE = ("<listcomp>", "<dictcomp>", "<setcomp>", "handled")
"""What is a call of its own before Python 3.12, and part of its function since; and what is a
function of Python's own since 3.11."""

_WARM = 20
_COUNTED = 20


@contextmanager
def _profiled(profile: Callable[[FrameType, str, object], None]) -> Generator[None]:
    """Have ``profile`` called, and no finalizer of what other tests have left."""
    gc.collect()
    gc.disable()
    before = sys.getprofile()
    sys.setprofile(profile)
    try:
        yield
    finally:
        sys.setprofile(before)
        gc.enable()


def calls(job: Job) -> float:
    """Count the calls of functions, in Python and in C, that one ``job`` makes.

    It is the median of several: what happens now and then, such as the growth of a queue in memory,
    depends on what ran before.
    """
    number = 0

    def profile(_: FrameType, event: str, __: object) -> None:
        nonlocal number
        number += event in ("call", "c_call")

    for _ in range(_WARM):
        job()
    numbers: list[int] = []
    with _profiled(profile):
        for _ in range(_COUNTED):
            before = number
            job()
            numbers.append(number - before)
    return median(numbers)


def our_calls(job: Job) -> list[str]:
    """Name the module of each function of ours that one ``job`` calls, in their order."""
    modules: list[str] = []

    def profile(frame: FrameType, event: str, _: object) -> None:
        code = frame.f_code
        ours = code.co_filename.startswith(PACKAGE)
        if event == "call" and ours and code.co_name not in INLINE:
            modules.append(code.co_filename)

    for _ in range(_WARM):
        job()
    with _profiled(profile):
        job()
    return [module.removeprefix(PACKAGE) for module in modules]


def changes(modules: list[str]) -> int:
    """Count how often a call is into another module than the call before it."""
    return sum(before != after for before, after in pairwise(modules))


def garbage(job: Job) -> float:
    """Count the objects that one ``job`` leaves for the collector of reference cycles."""
    for _ in range(_WARM):
        job()
    gc.collect()
    gc.disable()
    try:
        for _ in range(_COUNTED):
            job()
        return gc.collect() / _COUNTED
    finally:
        gc.enable()


def publishing(app: Celery, name: str) -> Job:
    """Give a job that publishes a task by its name."""
    return lambda: app.send_task(name)


def running(
    app: Celery, name: str, *, sampled: bool = True, headers: Mapping[str, str] = {}
) -> Job:
    """Give a job that runs a task as a worker does, with a message that has a trace."""
    task: Any = app.tasks[name]
    trace_task: Any = build_tracer(name, task, app=app, hostname="celery@budget")
    route = {"exchange": "", "routing_key": "celery", "priority": 0, "redelivered": False}
    trace_id, span_id = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
    message = {
        "id": "id-1",
        "task": name,
        "root_id": "id-1",
        "retries": 0,
        "delivery_info": route,
        "hostname": "celery@budget",
        "origin": "gen1@budget",
        "is_eager": False,
        "ignore_result": True,
        "traceparent": f"00-{trace_id}-{span_id}-{sampled:02x}",
        "taskobs-published-at": f"{time.time():.6f}",
        **headers,
    }
    return lambda: trace_task("id-1", (), {}, dict(message))


@contextmanager
def floor(tracer: Tracer) -> Generator[None]:
    """Make two bare spans by hand: the least that a publish and a run can cost."""
    spans: dict[str, Span] = {}

    def published(sender: str, headers: dict[str, Any], **_: object) -> None:
        spans[headers["id"]] = tracer.start_span(f"publish {sender}", kind=SpanKind.PRODUCER)

    def sent(headers: dict[str, Any], **_: object) -> None:
        spans.pop(headers["id"]).end()

    def started(task: Any, task_id: str, **_: object) -> None:
        spans[task_id] = tracer.start_span(f"run {task.name}", kind=SpanKind.CONSUMER)

    def ended(task_id: str, **_: object) -> None:
        spans.pop(task_id).end()

    def failed(task_id: str, exception: BaseException, **_: object) -> None:
        spans[task_id].record_exception(exception)

    receivers = (
        (signals.before_task_publish, published),
        (signals.after_task_publish, sent),
        (signals.task_prerun, started),
        (signals.task_failure, failed),
        (signals.task_postrun, ended),
    )
    for signal, receiver in receivers:
        signal.connect(receiver, weak=False)
    try:
        yield
    finally:
        for signal, receiver in receivers:
            signal.disconnect(receiver)
