"""One process that is set up in one way and measures itself on request.

Started as ``python -m bench.one NAME ENDPOINT DSN [AGENT]``; each line it reads is ``WHAT COUNT``,
and each line that it writes is the CPU time of one such thing in microseconds: its own, and its
relay's. All telemetry is exported before the clock is read.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Callable
from typing import Any, Final

from celery import Celery, signals
from celery.app import trace as celery_trace
from opentelemetry import trace

from bench import proc
from bench.peers import installed
from bench.setups import SETUPS, Target

DATABASE: Final[dict[str, str | int]] = {
    "db.system.name": "postgresql",
    "db.namespace": "shop",
    "db.query.text": "SELECT id, state, total FROM orders WHERE customer_id = %s ORDER BY id",
    "server.address": "db.example",
    "server.port": 5432,
}
WARM_UP: Final = {"publish": 20, "run": 100, "spans": 20, "fail": 10}
app = Celery("bench", broker="memory://", backend="cache+memory://")
app.conf.update(task_ignore_result=True, worker_hijack_root_logger=False)


@app.task
def noop() -> None:
    """Do nothing."""


@app.task
def spanned() -> None:
    """Make ten spans, as instrumentations of databases and HTTP clients do."""
    tracer = trace.get_tracer("bench")
    for _ in range(10):
        with tracer.start_as_current_span("SELECT shop.orders", attributes=DATABASE):
            pass


@app.task
def failing() -> None:
    """Fail."""
    raise ValueError("as asked")


def publish(count: int) -> None:
    """Publish to the memory broker, and throw the messages away."""
    for _ in range(count):
        noop.delay()
    with app.connection_for_write() as connection:
        channel: Any = connection.default_channel
        channel.queue_purge("celery")


def runner(task: Any, sampled: str) -> Callable[[int], None]:
    """Give what runs a task as a pool child does."""
    # Looked up now: Sentry's integration has put its own in its place.
    trace_task: Any = celery_trace.build_tracer(task.name, task, app=app, hostname="celery@bench")
    route = {"exchange": "", "routing_key": "celery", "priority": 0, "redelivered": False}

    def run(count: int) -> None:
        for number in range(count):
            request = {
                "id": str(number),
                "task": task.name,
                "root_id": str(number),
                "retries": 0,
                "delivery_info": route,
                "hostname": "celery@bench",
                "is_eager": False,
                "ignore_result": True,
                "traceparent": f"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-{sampled}",
            }
            trace_task(str(number), (), {}, request)

    return run


def main() -> None:
    """Set up as named, then measure what is asked for."""
    logging.disable(logging.CRITICAL)
    name, *target = sys.argv[1:]
    flush = (SETUPS | installed())[name](Target(*target))
    app.finalize()
    if "relay" in name:
        signals.worker_init.send(sender=None)  # this process plays the worker
    sampled = "00" if "unsampled" in name else "01"
    bodies = {"run": noop, "spans": spanned, "fail": failing}
    # The tasks themselves, as a worker has them: their module has proxies.
    tasks = {what: app.tasks[body.name] for what, body in bodies.items()}
    jobs = {"publish": publish, **{what: runner(task, sampled) for what, task in tasks.items()}}
    for job in jobs.values():
        job(20)
    flush()
    helpers = proc.relays(os.getpid())
    if ("relay" in name) != bool(helpers):
        sys.exit(f"{name}: {len(helpers)} relays")
    print("ready", flush=True)
    for line in sys.stdin:
        what, count = line.rsplit(" ", 1)
        jobs[what](WARM_UP[what])  # others had the processor meanwhile, and its caches
        flush()
        own, theirs = time.process_time(), sum(map(proc.cpu, helpers))
        jobs[what](int(count))
        flush()
        own, theirs = time.process_time() - own, sum(map(proc.cpu, helpers)) - theirs
        print(*(f"{seconds / int(count) * 1e6:.3f}" for seconds in (own, theirs)), flush=True)


if __name__ == "__main__":
    main()
