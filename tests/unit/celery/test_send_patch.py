from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from typing import Any

import pytest
import wrapt
from celery import Celery, canvas, group
from kombu.exceptions import OperationalError

from taskobs.celery.patches.send import SendPatch
from tests.support.recording import Recorder, attribute, exceptions, outcome


class Told:
    """The calls that a patch made."""

    def __init__(self) -> None:
        self.tasks: list[str] = []
        self.patch = SendPatch(self.publishing, self.canvas, lambda: None)

    @contextmanager
    def publishing(self, app: Any, task: str, options: Mapping[str, Any]) -> Generator[None]:
        assert (app, options) is not None
        self.tasks.append(task)
        yield

    @contextmanager
    def canvas(self, kind: str, options: Mapping[str, Any]) -> Generator[None]:
        assert options is not None
        self.tasks.append(kind)
        yield


@pytest.fixture
def told() -> Generator[list[str]]:
    told = Told()
    told.patch.install()
    yield told.tasks
    told.patch.remove()


@pytest.fixture
def add(app: Celery) -> Any:
    @app.task(name="add")
    def add(x: int, y: int) -> int:
        return x + y

    return add


WAYS: dict[str, Callable[[Celery, Any], object]] = {
    "delay": lambda _, add: add.delay(1, 2),
    "apply_async": lambda _, add: add.apply_async((1, 2)),
    "signature": lambda _, add: add.s(1, 2).apply_async(),
    "send_task": lambda app, _: app.send_task("add"),
    "by keyword": lambda app, _: app.send_task(name="add"),
    "chain": lambda _, add: (add.s(1, 2) | add.s(3))(),
}


@pytest.mark.parametrize("way", WAYS)
def test_every_way_to_publish_is_seen_once(
    app: Celery, add: Any, told: list[str], way: str
) -> None:
    """However I publish, it is one publish."""
    WAYS[way](app, add)
    assert told == ["add"]


def test_a_group_is_seen_with_its_parts(add: Any, told: list[str]) -> None:
    """A group is told, and then each of its parts."""
    group(add.s(1, 1), add.s(2, 2))()
    assert told == ["celery.group", "add", "add"]


def test_removed_leaves_celery_as_it_was() -> None:
    """Removing the patch restores the original functions."""
    targets = [(Celery, "send_task"), (canvas.group, "apply_async"), (canvas.chord, "apply_async")]
    before = [id(target.__dict__[name]) for target, name in targets]
    patch = Told().patch
    patch.install()
    assert not {id(target.__dict__[name]) for target, name in targets} & set(before)
    patch.remove()
    patch.remove()
    assert [id(target.__dict__[name]) for target, name in targets] == before


def test_a_wrapper_of_somebody_else_stays(app: Celery) -> None:
    """If somebody wrapped the send after us, theirs stays and ours does nothing."""
    original = Celery.__dict__["send_task"]
    seen: list[str] = []

    def around(send: Any, _: Any, args: Any, kwargs: Any) -> Any:
        seen.append(args[0])
        return send(*args, **kwargs)

    told = Told()
    told.patch.install()
    wrapt.wrap_function_wrapper("celery", "Celery.send_task", around)
    try:
        told.patch.remove()
        app.send_task("add")
        assert (seen, told.tasks) == (["add"], [])
    finally:
        Celery.send_task = original  # type: ignore[method-assign]  # as it was


def test_a_refused_publish_is_an_error(spans: Recorder) -> None:
    """When no broker answers I get the error, and its span has it too."""
    app = Celery("shop", broker="amqp://127.0.0.1:9//", set_as_current=False)
    app.conf.broker_connection_timeout = 0.2
    app.conf.broker_transport_options = {"max_retries": 1, "interval_start": 0}
    with pytest.raises(OperationalError, match="refused"):
        app.send_task("add", retry=False)
    publish = spans.one("publish add")
    assert outcome(publish) == ("ERROR", None)
    assert exceptions(publish) == [attribute(publish, "error.type")]
    assert attribute(publish, "server.port") == 9
