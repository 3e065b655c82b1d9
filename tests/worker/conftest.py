"""One embedded worker for all tests of the ring, and the spans of what passes through it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

import pytest
from celery import Celery, Task, _state
from celery.contrib.testing.worker import start_worker
from celery.exceptions import Ignore, Reject
from opentelemetry import baggage, trace

import taskobs
from tests.support.recording import PrivateApp, Recorder, instrumented


def make_app() -> Celery:  # noqa: C901  # many small tasks
    """Make the shop: tasks that add, fail, retry, replace themselves and look at their headers."""
    app = PrivateApp("shop", broker="memory://", backend="cache+memory://", set_as_current=False)
    app.conf.update(
        broker_transport_options={"polling_interval": 0.01},
        worker_hijack_root_logger=False,
        result_chord_retry_interval=0.01,
        task_default_queue="orders",
    )

    @app.task(name="add")
    def add(x: int, y: int) -> int:
        return x + y

    @app.task(name="total")
    def total(numbers: list[int]) -> int:
        return sum(numbers)

    @app.task(name="boom")
    def boom(*_: object) -> None:
        raise KeyError("boom")

    @app.task(name="note")
    def note(_: object) -> None:
        """Do nothing, as a callback."""

    @app.task(name="ignore")
    def ignore() -> None:
        raise Ignore("not now")

    @app.task(name="reject")
    def reject() -> None:
        raise Reject(Mute(), requeue=False)

    @app.task(name="opaque")
    def opaque() -> object:
        return object()

    @app.task(name="flaky", bind=True, max_retries=3)
    def flaky(self: Task[Any, Any], failures: int = 2) -> int:
        if self.request.retries < failures:
            raise self.retry(countdown=0, exc=ValueError("busy"))
        return self.request.retries + 1

    @app.task(name="substitute", bind=True)
    def substitute(self: Task[Any, Any], x: int) -> None:
        raise self.replace(add.s(x, 1))

    @app.task(name="calls", bind=True)
    def calls(_: Task[Any, Any]) -> str:
        return str(add.delay(1, 2).id)

    @app.task(name="marks")
    def marks(order: int) -> None:
        taskobs.set_context(order=order)
        add.delay(1, 2)

    @app.task(name="eager")
    def eager() -> str:
        boom.apply()
        return f"{trace.get_current_span().get_span_context().span_id:016x}"

    @app.task(name="look", bind=True)
    def look(self: Task[Any, Any]) -> dict[str, Any]:
        request = self.request
        headers = ("traceparent", "baggage", "taskobs-published-at", "taskobs-links", "mine")
        return {
            "headers": {name: getattr(request, name, None) for name in headers},
            "baggage": dict(baggage.get_all()),
            "stamps": request.stamps,
            "span": trace.get_current_span().get_span_context().span_id,
        }

    class Hooked(app.Task):  # type: ignore[misc, name-defined]
        hook = ""

        def on_success(self, *_: Any, **__: Any) -> None:
            self._raise("on_success")

        def on_failure(self, *_: Any, **__: Any) -> None:
            self._raise("on_failure")

        def after_return(self, *_: Any, **__: Any) -> None:
            self._raise("after_return")

        def _raise(self, hook: str) -> None:
            if hook == self.hook:
                raise RuntimeError(hook)

    for hook in ("on_success", "after_return"):
        app.task(name=hook, base=Hooked, hook=hook)(_succeed)
    app.task(name="on_failure", base=Hooked, hook="on_failure")(_fail)
    return app


class Mute(Exception):  # noqa: N818  # as a user's own may be
    def __str__(self) -> str:
        raise RuntimeError("no")

    __repr__ = __str__


def _succeed() -> int:
    return 1


def _fail() -> None:
    raise KeyError("task")


@contextmanager
def current_app_kept() -> Generator[None]:
    """Make the app of an embedded worker the current one, as Celery does, in a block alone.

    Tasks that are shared by all apps are looked for in the current one: not in a closed app.
    """
    state: Any = _state
    current, default = state._tls.current_app, state.default_app
    try:
        yield
    finally:
        state._tls.current_app, state.default_app = current, default


@pytest.fixture(scope="package")
def app() -> Generator[Celery]:
    """Give the shop, served by a worker in this process."""
    app, level = make_app(), logging.root.level
    with (
        current_app_kept(),
        start_worker(app, pool="solo", perform_ping_check=False, shutdown_timeout=30),
    ):
        yield app
    app.close()
    logging.root.setLevel(level)  # the worker has raised it for the whole process


@pytest.fixture
def spans(app: Celery) -> Generator[Recorder]:
    """Give the spans that Celery makes while the test runs."""
    assert app
    recorder = Recorder()
    with instrumented(recorder):
        yield recorder


@pytest.fixture
def result_of() -> Callable[[Any], Any]:
    """Give what a result becomes, or the exception that it raises."""

    def get(result: Any) -> Any:
        return result.get(timeout=60, interval=0.005, propagate=False)

    return get
