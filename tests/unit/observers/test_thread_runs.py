"""Lines of threads and executors say which run they work for."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor

import pytest
from celery import Celery

from taskobs.celery.active import current_run
from taskobs.observers.logs import fields_of
from taskobs.observers.thread_runs import ThreadRuns
from tests.support.recording import Recorder, context_of


@pytest.fixture(autouse=True)
def installed() -> Generator[None]:
    before = threading.Thread.start, ThreadPoolExecutor.submit
    runs = ThreadRuns(current_run)
    runs.install()
    yield
    runs.remove()
    assert (threading.Thread.start, ThreadPoolExecutor.submit) == before


def fields() -> dict[str, str]:
    """Return the fields of a line that is logged now."""
    return fields_of(current_run())


def in_thread(act: Callable[[], object]) -> None:
    thread = threading.Thread(target=act)
    thread.start()
    thread.join()


class Overridden(threading.Thread):
    """A thread that says in a method of its own what it does."""

    def __init__(self, seen: list[dict[str, str]]) -> None:
        super().__init__()
        self._seen = seen

    def run(self) -> None:
        self._seen.append(fields())


def run_task(app: Celery, name: str, body: Callable[[], object]) -> None:
    app.task(name=name)(body).apply(task_id=f"id of {name}").get()


def ids_of(spans: Recorder, name: str) -> dict[str, str]:
    run = context_of(spans.one(f"run {name}"))
    return {
        "task_id": f"id of {name}",
        "task_name": name,
        "trace_id": f"{run.trace_id:032x}",
        "span_id": f"{run.span_id:016x}",
        "trace_flags": "01",
    }


def test_a_thread_of_a_run_has_its_ids(app: Celery, spans: Recorder) -> None:
    """What a thread of my task logs names the task, also if that thread starts another."""
    seen: list[dict[str, str]] = []

    def body() -> None:
        in_thread(lambda: seen.append(fields()))
        in_thread(lambda: in_thread(lambda: seen.append(fields())))
        overridden = Overridden(seen)
        overridden.start()
        overridden.join()

    run_task(app, "threads", body)
    assert seen == [ids_of(spans, "threads")] * 3


def test_an_executor_has_the_ids_of_the_run_that_calls_it(app: Celery, spans: Recorder) -> None:
    """One pool of threads serves many tasks, and each line names its own."""
    seen: list[dict[str, str]] = []

    def note(_: object = None) -> None:
        seen.append(fields())

    with ThreadPoolExecutor(1) as pool:

        def body() -> None:
            pool.submit(note).result()

        def several() -> None:
            list(pool.map(note, range(2)))

        run_task(app, "first", body)
        run_task(app, "second", body)
        body()
        run_task(app, "third", several)
    first, second, outside, *third = seen
    assert (first, second) == (ids_of(spans, "first"), ids_of(spans, "second"))
    assert set(outside.values()) == {""}
    assert third == [ids_of(spans, "third")] * 2


def test_a_thread_that_outlives_its_run_has_no_ids_any_more(app: Celery, spans: Recorder) -> None:
    """A library's thread that happens to start in my task does not work for it for ever."""
    ended, done = threading.Event(), threading.Event()
    seen: list[dict[str, str]] = []

    def stay() -> None:
        ended.wait(60)
        seen.append(fields())
        done.set()

    def body() -> None:
        threading.Thread(target=stay, daemon=True).start()

    run_task(app, "starts", body)
    ended.set()
    assert done.wait(60)
    assert set(seen[0].values()) == {""}
    assert spans


def test_what_an_executor_raises_and_returns_is_mine(app: Celery, spans: Recorder) -> None:
    """The function that I hand over is called as I said."""
    found: list[object] = []

    def body() -> None:
        with ThreadPoolExecutor(1) as pool:
            found.append(pool.submit(divmod, 7, 2).result())
            found.append(pool.submit(int, "11", base=2).result())
            found.append(type(pool.submit(divmod, 7, 0).exception()))
            with pytest.raises(TypeError):
                pool.submit()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]

    run_task(app, "calls", body)
    assert found == [(3, 1), 3, ZeroDivisionError]
    assert spans
