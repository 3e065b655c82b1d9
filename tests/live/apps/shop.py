"""The app of the live tests: set up as a user would, one task for each way that a run can end."""

from __future__ import annotations

import json
import os
import signal
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from celery import Celery, chain, chord, group
from celery.exceptions import Ignore, Reject, SoftTimeLimitExceeded
from opentelemetry import baggage, trace

import taskobs
from taskobs.view.demo import folder

if TYPE_CHECKING:
    from celery import Task

NOW = datetime.now(timezone.utc).isoformat()
PATIENCE = 600.0
"""Seconds: as many as a test may take."""
folder.register()
app = Celery("shop", broker=os.environ["APP_BROKER"], backend=os.environ["APP_BACKEND"])
app.conf.update(
    broker_transport_options=json.loads(os.environ.get("APP_BROKER_OPTIONS", "{}")),
    broker_connection_retry_on_startup=True,
    task_remote_tracebacks=False,
    worker_hijack_root_logger=True,
    # A child that takes longer to start is killed: by default after 4 s.
    worker_proc_alive_timeout=PATIENCE,
)
# A test's own wishes, such as {"task_acks_late": true}.
app.conf.update(json.loads(os.environ.get("APP_CONFIG", "{}")))
app.conf.beat_schedule |= {
    name: {**entry, "last_run_at": datetime.fromisoformat(entry.get("last_run_at", NOW))}
    for name, entry in json.loads(os.environ.get("APP_BEAT", "{}")).items()
}
session = taskobs.init(**json.loads(os.environ.get("APP_INIT", "{}")))
if "APP_FULL_WAY" in os.environ:
    # Nothing is known of what messages have in common, so each run is described the full way.
    from taskobs.celery.adapter import runs

    def unknown(*_: object) -> None: ...

    setattr(runs, "route_of", unknown)  # noqa: B010  # mypy knows of no such name there


class OutOfStockError(Exception):
    """What a shop's task is expected to raise now and then."""


@app.task
def add(x: int, y: int) -> int:
    """Succeed."""
    return x + y


@app.task
def way() -> str:
    """Tell which way runs are described here."""
    from taskobs.celery.adapter import routes, runs

    return "usual" if vars(runs)["route_of"] is routes.route_of else "full"


@app.task
def fail(message: str = "boom") -> None:
    """Fail."""
    raise ValueError(message)


@app.task(throws=(OutOfStockError,))
def expected() -> None:
    """Fail as the task's ``throws`` announces."""
    raise OutOfStockError


@app.task(bind=True, max_retries=10)
def retry_then_ok(self: Task[Any, Any], times: int, countdown: float = 0) -> int:
    """Retry ``times`` times, then succeed; gives the number of the attempt."""
    if self.request.retries < times:
        raise self.retry(countdown=countdown, exc=ValueError("not yet"))
    return self.request.retries + 1


@app.task(bind=True, autoretry_for=(ValueError,), max_retries=10, default_retry_delay=0)
def autoretry_then_ok(self: Task[Any, Any], times: int) -> int:
    """Raise ``times`` times what the task is retried for, then succeed."""
    if self.request.retries < times:
        msg = "not yet"
        raise ValueError(msg)
    return self.request.retries + 1


@app.task(bind=True, max_retries=1, default_retry_delay=0)
def exhausted(self: Task[Any, Any]) -> None:
    """Retry until no retry is left: two attempts, then `ValueError`."""
    raise self.retry(exc=ValueError("never"))


@app.task
def ignore() -> None:
    """Say that nobody needs to know how it went."""
    raise Ignore


@app.task(bind=True, acks_late=True)
def reject(self: Task[Any, Any], requeue: bool = False) -> str:  # noqa: FBT001, FBT002  # JSON
    """Reject the message; when it comes again, succeed."""
    if requeue and (self.request.delivery_info or {}).get("redelivered"):
        return "redelivered"
    reason = "not mine"
    raise Reject(reason, requeue=requeue)


@app.task
def slow(seconds: float) -> str:
    """Take that long."""
    time.sleep(seconds)
    return "slept"


def stay(task_id: str, folder: Path) -> str:
    """Leave a file of this name in a folder, and stay until there is one named ``go``."""
    (folder / task_id).touch()
    deadline = time.monotonic() + PATIENCE
    while not (folder / "go").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    return "held"


@app.task(bind=True)
def hold(self: Task[Any, Any], where: str) -> str:
    """Leave a file named by the id in a folder, and stay until there is one named ``go``."""
    return stay(str(self.request.id), Path(where))


@app.task(soft_time_limit=3)
def soft_limit() -> None:
    """Run into the soft time limit; it counts from before the body, where a busy machine may be."""
    time.sleep(30)


@app.task(soft_time_limit=3)
def soft_limit_handled() -> str:
    """Run into the soft time limit and make the best of it."""
    try:
        time.sleep(30)
    except SoftTimeLimitExceeded:
        return "cleaned up"
    return "slept"


@app.task(time_limit=3)
def hard_limit() -> None:
    """Run into the hard time limit; it counts from before the run's start, too."""
    time.sleep(30)


@app.task
def die(how: str = "KILL", within: str | None = None) -> None:
    """End the process: ``exit`` for ``os._exit``, else a signal; ``within`` names an open span."""
    if within is not None:
        with trace.get_tracer("shop").start_as_current_span(within):
            _die(how)
    _die(how)


def _die(how: str) -> None:
    if how == "exit":
        os._exit(7)
    os.kill(os.getpid(), signal.Signals[f"SIG{how}"])
    time.sleep(30)


@app.task
def system_exit() -> None:
    """Leave as a script would."""
    raise SystemExit(3)


@app.task
def unpicklable() -> None:
    """Raise what can't travel between processes."""

    class LocalError(Exception):
        def __init__(self, one: object, two: object) -> None:
            super().__init__(one)
            self.two = two

    raise LocalError(1, lambda: None)


@app.task
def unserializable() -> object:
    """Give a result that the backend can't store."""
    return object()


@app.task
def eager_inner(x: int) -> int:
    """Run another task eagerly, and give what it gave."""
    return int(add.apply(args=(x, 1)).get(disable_sync_subtasks=False))


@app.task
def eager_fail() -> None:
    """Run a failing task eagerly, and let it through."""
    fail.apply(throw=True)


@app.task
def calls_add(x: int, y: int) -> str:
    """Publish another task; gives its id."""
    return str(add.delay(x, y).id)


@app.task
def caught() -> str:
    """Call a failing task as a plain function, and handle it."""
    try:
        fail()
    except ValueError:
        return "handled"
    return "?"


@app.task
def total(numbers: list[int]) -> int:
    """Be the callback of a chord."""
    return sum(numbers)


@app.task
def on_error(*_: object) -> str:
    """Be an errback."""
    return "seen"


@app.task(bind=True)
def replaced(self: Task[Any, Any], x: int, y: int) -> Any:  # it never returns
    """Be replaced by another task."""
    return self.replace(add.s(x, y))


@app.task(bind=True)
def echo_request(self: Task[Any, Any]) -> dict[str, Any]:
    """Give what a task sees of its message."""
    request = self.request
    return {
        "id": request.id,
        "headers": dict(request.headers or {}),
        "traceparent": getattr(request, "traceparent", None),
        "baggage_header": getattr(request, "baggage", None),
        "stamps": getattr(request, "stamps", None),
        "baggage": {key: str(value) for key, value in baggage.get_all().items()},
        "trace_id": f"{trace.get_current_span().get_span_context().trace_id:032x}",
        "pid": os.getpid(),
        "ppid": os.getppid(),
    }


@app.task
def child_span(name: str) -> str:
    """Make a span of the user's own; gives its id."""
    with trace.get_tracer("shop").start_as_current_span(name) as span:
        return f"{span.get_span_context().span_id:016x}"


@app.task
def slow_span(name: str, seconds: float) -> None:
    """Take that long inside of a span of the user's own."""
    with trace.get_tracer("shop").start_as_current_span(name):
        time.sleep(seconds)


def make_chain() -> Any:  # a signature
    """Give a chain of three: 1 + 2 + 3 + 4."""
    return chain(add.s(1, 2), add.s(3), add.s(4))


def make_group(size: int = 3) -> Any:
    """Give a group."""
    return group(add.s(number, number) for number in range(size))


def make_chord(size: int = 3) -> Any:
    """Give a chord: a group and the sum of its results."""
    return chord([add.s(number, number) for number in range(size)], total.s())
