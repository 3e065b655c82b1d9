"""What objects do in a forked child: in a defined order, and for as long as they live."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable

import pytest

import taskobs
from taskobs.internal import forksafe
from taskobs.internal.forksafe import ForkStep
from taskobs.session.live import LiveSession

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "register_at_fork"), reason="needs fork"),
    # What an earlier test of this process has loaded or started may object to forks.
    pytest.mark.filterwarnings("ignore:Using fork:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning"),
]


class Recorder:
    def __init__(self, name: str, calls: list[str], *, fails: bool = False) -> None:
        self.name, self.calls, self.fails = name, calls, fails

    def after_fork(self) -> None:
        self.calls.append(self.name)
        if self.fails:
            raise ValueError(self.name)


class Blocking(Recorder):
    def before_fork(self) -> None:
        self.calls.append(f"before {self.name}")

    def after_fork_in_parent(self) -> None:
        self.calls.append(f"parent {self.name}")


def in_a_child(read: Callable[[], object]) -> str:
    """Return what something is in a forked child."""
    reader, writer = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            os.write(writer, str(read()).encode())
        finally:
            os._exit(0)
    os.waitpid(pid, 0)
    os.close(writer)
    with os.fdopen(reader) as file:
        return file.read()


def test_objects_are_called_in_order() -> None:
    """Locks come first, what exports next, what decides last: whatever was set up first."""
    calls: list[str] = []
    instances = [Recorder(name, calls) for name in ("session", "second", "first", "lock")]
    steps = (ForkStep.SESSION, ForkStep.EXPORT, ForkStep.EXPORT, ForkStep.LOCKS)
    for instance, step in zip(instances, steps, strict=True):
        forksafe.add(instance, step)
        forksafe.add(instance, step)  # twice is once
    assert in_a_child(lambda: " ".join(calls)) == "lock second first session"
    assert calls == []
    for instance in instances:
        forksafe.remove(instance)
    assert in_a_child(lambda: calls) == "[]"


def test_an_object_that_was_collected_is_forgotten() -> None:
    """Whatever is dropped without a word leaves nothing behind."""
    calls: list[str] = []
    forksafe.add(Recorder("gone", calls), ForkStep.EXPORT)
    gc.collect()
    assert in_a_child(lambda: calls) == "[]"


def test_a_fork_waits_for_who_asks_for_it() -> None:
    calls: list[str] = []
    instances = [Blocking("outer", calls), Blocking("inner", calls)]
    for instance in instances:
        forksafe.add(instance, ForkStep.LOCKS)
    child = in_a_child(lambda: " ".join(calls))
    assert child == "before inner before outer outer inner"
    assert calls == ["before inner", "before outer", "parent outer", "parent inner"]
    for instance in instances:
        forksafe.remove(instance)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_one_that_fails_keeps_no_other_from_its_turn() -> None:
    """A child is never left with a lock of its parent's because of somebody else's bug."""
    calls: list[str] = []
    instances = [Recorder("failing", calls, fails=True), Recorder("next", calls)]
    for instance in instances:
        forksafe.add(instance, ForkStep.EXPORT)
    assert in_a_child(lambda: " ".join(calls)) == "failing next"
    for instance in instances:
        forksafe.remove(instance)


def test_a_session_that_is_closed_does_nothing_at_a_fork() -> None:
    """`close()` takes everything away: my later forks are as without taskobs."""
    before = set(map(type, forksafe._registry._all()))  # pyright: ignore[reportPrivateUsage]
    session = taskobs.init(otlp_endpoint="http://127.0.0.1:9", sentry_dsn="http://k@127.0.0.1:9/1")
    during = set(map(type, forksafe._registry._all()))  # pyright: ignore[reportPrivateUsage]
    assert LiveSession in during - before
    session.close()
    del session
    gc.collect()
    after = {one.__name__ for one in map(type, forksafe._registry._all())}  # pyright: ignore[reportPrivateUsage]
    assert not {"LiveSession", "Spans", "Errors", "SentryPipeline", "PerProcessProcessor"} & after
