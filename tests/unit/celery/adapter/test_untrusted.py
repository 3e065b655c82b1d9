from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from taskobs.celery.adapter import names
from taskobs.celery.adapter.untrusted import untrusted_task


@pytest.fixture(autouse=True)
def no_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """Begin as a process does that has seen no name yet."""
    monkeypatch.setattr(names, "_seen", set[str]())


def name_of(task: object) -> str:
    consumer = SimpleNamespace(app=None, hostname="celery@w1")
    message: Any = SimpleNamespace(headers={"task": task, "id": "id-1"}, delivery_info=None)
    return untrusted_task(consumer, message)[0].name


@pytest.mark.parametrize(
    ("task", "name"),
    [
        ("shop.pay", "shop.pay"),
        ("shop\n\x1b[31mpay\x00", "shop??[31mpay?"),
        ("caf\udce9", "caf?"),
        ("z\u200bahlung\u202e", "z?ahlung?"),
        ("", "unknown"),
        (["shop.pay"], "unknown"),
        ("x" * 1_000, "x" * 200),
    ],
)
def test_the_name_of_an_unknown_task_is_printable(task: object, name: str) -> None:
    """Whatever somebody sends as a task's name, it spoils no list and no terminal of mine."""
    assert name_of(task) == name


def test_the_names_of_unknown_tasks_are_bounded() -> None:
    """Somebody sends 700 names of tasks that I don't have: I see some, and one for the rest."""
    found = [name_of(f"task-{number}") for number in range(700)]
    assert len({*found}) == 501
    assert found[-1] == "unknown"
    assert name_of("task-0") == "task-0"  # which was seen before


@pytest.mark.parametrize("inner", ["x\n", "caf\udce9"])
def test_the_inner_name_of_a_map_is_printable(inner: str) -> None:
    """A map names what it maps, which comes with its message: printable, too."""
    assert names.name_of("celery.map", {"task": {"task": inner}}).isprintable()


def test_the_inner_names_of_maps_are_bounded() -> None:
    """Somebody sends maps of 700 tasks: I see some, and the map's own name for the rest."""
    found = [names.name_of("celery.map", {"task": {"task": f"t-{n}"}}) for n in range(700)]
    assert len({*found}) == 501
    assert found[-1] == "celery.map"
