"""Runs calls that may block for ever, and waits for them for a bounded time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable


def run_with_timeout(timeout: float, *jobs: Callable[[], object]) -> bool:
    """Run ``jobs`` side by side in daemon threads and wait at most ``timeout`` seconds for all.

    The SDK's own flush ignores its timeout, and Sentry's has one of its own; a job that is not
    done in time is left to end with the process. Returns whether all were done. What a job
    raises goes to ``threading.excepthook``.
    """
    started = [thread for number, job in enumerate(jobs) if (thread := _start(number, job))]
    deadline = time.monotonic() + timeout
    for thread in started:
        thread.join(max(0.0, deadline - time.monotonic()))
    return not any(thread.is_alive() for thread in started)


def _start(number: int, job: Callable[[], object]) -> threading.Thread | None:
    """Start a job in a thread, or do it here and return None.

    Python 3.12 starts no threads once it runs what ``atexit`` has (seen with 3.12.1; 3.13.0 does):
    what is left is sent then, with no other bound than the exporter's own timeout.
    """
    thread = threading.Thread(target=job, name=f"taskobs-flush-{number}", daemon=True)
    try:
        thread.start()
    except RuntimeError:
        job()
        return None
    return thread
