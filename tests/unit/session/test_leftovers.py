"""A whole session, hundreds of tasks, and nothing of ours is left when it is closed."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import pytest
from celery import Celery
from opentelemetry import baggage, trace
from opentelemetry.context import get_current
from sentry_sdk import get_client

import taskobs
from taskobs.celery.active import current_run
from taskobs.testing.receiver import Receiver
from tests.conftest import children, our_receivers, our_threads
from tests.live.process import wait_until

NUMBER = 200
PATIENCE = 60.0
FAILING = 20
"""Every how many eager runs one fails: each makes an event, and that takes its time."""
needs_proc = pytest.mark.skipif(
    not Path("/proc/self/fd").exists(), reason="only Linux tells which files are open"
)


def open_files() -> set[str]:
    """Name what this process has open, by descriptor; but for what this reads the folder by.

    That one has the lowest number that is free, which is another if a file was closed meanwhile.
    """
    return {
        f"{link.name}: {target}"
        for link in Path("/proc/self/fd").iterdir()
        if (target := _target(link)) is not None
    }


def _target(link: Path) -> Path | None:
    try:
        return link.readlink()
    except OSError:
        return None


def refuse(*_: object, **__: object) -> None:
    """Be a broker that is away."""
    raise ConnectionError("refused")


def fail_to_publish(app: Celery) -> None:
    """Publish to a broker that refuses, again and again."""
    with mock.patch.object(app.amqp, "send_task_message", refuse):
        for _ in range(NUMBER):
            with pytest.raises(ConnectionError):
                app.send_task("any")


def nest(app: Celery) -> None:
    """Run tasks eagerly inside tasks, again and again."""

    @app.task(name="inner")
    def inner(number: int) -> None:
        if number % FAILING == 0:
            raise KeyError(number)

    @app.task(name="outer")
    def outer(number: int) -> None:
        inner.apply((number,))

    for number in range(NUMBER):
        outer.apply((number,))


@contextmanager
def session() -> Generator[Receiver]:
    """Be in a session that sends traces and errors, and close it."""
    with Receiver() as receiver:
        with taskobs.init(
            otlp_endpoint=receiver.endpoint,
            sentry_dsn=receiver.dsn,
            shutdown_timeout=PATIENCE,
            strict=True,
        ):
            yield receiver
        assert wait_until(lambda: receiver.spans != (), timeout=PATIENCE)


@needs_proc
@pytest.mark.parametrize("misuse", [fail_to_publish, nest])
def test_nothing_is_left_after_close(app: Celery, misuse: Callable[[Celery], None]) -> None:
    """I close a session after a bad day, and the process is as it was before."""
    misuse_once_for_what_celery_itself_opens(app)
    receivers, threads, processes = our_receivers(), our_threads(), children()
    files, context = open_files(), get_current()
    with session() as receiver:
        misuse(app)
        assert current_run() is None
        assert not trace.get_current_span().get_span_context().is_valid
        assert not baggage.get_all()
    assert len(receiver.spans) == NUMBER * (2 if misuse is nest else 1)
    assert len(receiver.events) == (NUMBER // FAILING if misuse is nest else 0)
    assert our_receivers() == receivers
    assert wait_until(lambda: our_threads() <= threads, timeout=PATIENCE)
    assert wait_until(lambda: children() <= processes, timeout=PATIENCE)
    gc.collect()  # older exporters of metrics keep their connection until they are collected
    assert wait_until(lambda: open_files() <= files, timeout=PATIENCE), open_files() - files
    assert not get_client().is_active()
    assert get_current() == context


def test_sessions_leave_no_wrapper_around_threads(app: Celery) -> None:
    """I make a session for each of a thousand tests: threads start as quickly after the last."""
    misuse_once_for_what_celery_itself_opens(app)  # Sentry wraps them for good
    before = vars(threading.Thread)["start"], vars(ThreadPoolExecutor)["submit"]
    with session():
        app.send_task("any")
    assert (vars(threading.Thread)["start"], vars(ThreadPoolExecutor)["submit"]) == before


def misuse_once_for_what_celery_itself_opens(app: Celery) -> None:
    """Have the app make its pools, and Python import what it will."""
    app.send_task("any")
    with session():
        app.send_task("any")
