"""What the tests of processes run: forks, children, and ends. Prints what a test looks at."""

from __future__ import annotations

import multiprocessing
import os
import sys
import time

from celery import Celery

import taskobs

app = Celery("shop", broker="memory://")


@app.task(name="add")
def add(x: int, y: int) -> int:
    return x + y


def one(task_id: str) -> None:
    add.apply((1, 2), task_id=task_id)


def fork() -> None:
    """Fork with a connection open and a span in the queue; both then make a span each."""
    one("sent")
    session.flush()
    one("before")
    pid = os.fork()
    if not pid:
        one("child")
        session.close()
        os._exit(0)
    one("parent")
    os.waitpid(pid, 0)


def multi() -> None:
    """Leave the ends of two children, which make one span each, to taskobs."""
    one("before")
    start = multiprocessing.get_context("fork")
    children = [start.Process(target=one, args=(f"child{number}",)) for number in (1, 2)]
    for child in children:
        child.start()
    for child in children:
        child.join()


def publish() -> None:
    """Time publishes, without and with somebody to take the spans."""
    app.send_task("warm up")
    started = time.perf_counter()
    for _ in range(200):
        app.send_task("add")
    sys.stdout.write(f"{time.perf_counter() - started}\n")


session = taskobs.init()
{"fork": fork, "multi": multi, "publish": publish}[sys.argv[1]]()
