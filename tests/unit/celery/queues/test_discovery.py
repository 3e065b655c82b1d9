"""Which queues are looked at."""

from __future__ import annotations

import re
from typing import Any

import pytest
from celery import Celery
from kombu import Queue
from kombu.common import Broadcast

from taskobs.celery.queues.discovery import MOST, configured_queues, consumed_queues


def route(*_: object, **__: object) -> dict[str, str]:
    return {"queue": "by-function"}


@pytest.mark.parametrize(
    ("routes", "queues"),
    [
        (None, []),
        ({"a": {"queue": "one"}, "b.*": {"exchange": "x"}, "c": "two"}, ["one", "two"]),
        ([("a", {"queue": "one"}), (re.compile("b"), {"queue": Queue("two")})], ["one", "two"]),
        (([("a", {"queue": "one"}), ("b", {"queue": "two"})],), ["one", "two"]),
        ([{"a": {"queue": "one"}}, route, {"b": {"queue": "two"}}], ["one", "two"]),
        (route, []),
        ("a.module.of.a.router", []),
        ([1, None, ("a",), {"b": 3}, {"c": {"queue": 5}}, {"d": {"queue": ""}}], []),
    ],
)
def test_routes_name_queues(app: Celery, routes: Any, queues: list[str]) -> None:
    """I route tasks in any form that Celery takes, and the monitor looks at their queues."""
    app.conf.task_routes = routes
    assert configured_queues(app) == ["celery", *queues]


# Celery 5.7 says so of an attribute that apps have.
@pytest.mark.filterwarnings(r"ignore:\s*The 'queue' task attribute")
def test_tasks_and_entries_name_queues(app: Celery) -> None:
    """I give a task or an entry of beat a queue, and the monitor looks at it."""
    app.task(name="a", queue="of-task")(route)
    app.conf.beat_schedule = {
        "every": {"task": "a", "schedule": 1, "options": {"queue": "of-entry"}},
        "other": {"task": "a", "schedule": 1},
    }
    assert configured_queues(app) == ["celery", "of-task", "of-entry"]


def test_declared_queues_are_looked_at_once(app: Celery) -> None:
    """I declare my queues: those are looked at, but for broadcasts, which have one a worker."""
    app.conf.task_queues = (Queue("b"), Queue("a"), Broadcast("news"))
    app.conf.task_default_queue = "a"
    app.conf.task_routes = {"x": {"queue": "a"}}
    assert configured_queues(app) == ["b", "a"]


def test_workers_name_queues_and_are_counted() -> None:
    """Workers consume from queues that the app doesn't name: they are looked at, too."""
    replies: dict[str, Any] = {
        "one@a": [{"name": "celery", "alias": None}, {"name": "more"}, {"name": "more"}],
        "two@a": [{"name": "celery"}, {"name": "bcast.3f", "alias": "news"}],
        "odd@a": {"error": "no"},
        "odd@b": [None, 3, {"name": None}, {"name": "x" * 300}],
        "odd@c": None,
    }
    assert consumed_queues(replies) == {"celery": 2, "more": 1}


def test_queues_are_bounded(app: Celery) -> None:
    """I route to any number of queues, and the monitor stays small."""
    app.conf.task_routes = {f"t{n}": {"queue": f"q{n}"} for n in range(2 * MOST)}
    assert len(configured_queues(app)) == MOST
