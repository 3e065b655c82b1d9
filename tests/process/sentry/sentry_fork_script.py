"""A process that forks while Sentry's thread is busy; run by ``test_forks``."""

from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[3]))
warnings.simplefilter("ignore")

import sentry_sdk  # noqa: E402  # after the path is set

from taskobs.sentry.pipeline import SentryPipeline  # noqa: E402
from tests.support.sentry import Settings  # noqa: E402


def main(dsn: str, mode: str) -> None:
    """Fork four children with events still queued, or with every lock held."""
    if mode == "theirs":
        sentry_sdk.init(dsn=dsn)
    pipeline = SentryPipeline.start(Settings(sentry_dsn=None if mode == "theirs" else dsn))
    if mode == "locked":
        hold_all(sentry_sdk.get_client())
    else:
        sentry_sdk.capture_message("parent 0")
        pipeline.flush(60.0)  # leaves a kept-alive connection behind
        for number in range(1, 5):
            sentry_sdk.capture_message(f"parent {number}")
    children = [fork(pipeline, number) for number in range(4)]
    failed = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    if any(failed):
        sys.exit(f"children ended with {failed}")
    if mode != "locked":
        pipeline.close(60.0)
    os._exit(0)


def hold_all(client: Any) -> None:
    """Stand for a thread that is in the middle of everything at the fork."""
    client.transport._worker._lock.acquire()
    client.transport._worker._queue.mutex.acquire()
    client.session_flusher._thread_lock.acquire()
    client.session_flusher._aggregate_lock.acquire()
    for name in ("log_batcher", "metrics_batcher"):
        batcher = getattr(client, name, None)
        if batcher is not None:
            batcher._lock.acquire()


def fork(pipeline: SentryPipeline, number: int) -> int:
    """Capture one event in a child, which leaves as a pool child does."""
    child = os.fork()
    if child:
        return child
    pipeline.after_fork()
    sentry_sdk.capture_message(f"child {number}")
    os._exit(0 if pipeline.flush(60.0) else 3)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
