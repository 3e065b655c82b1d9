"""Runs whose messages came the same way are described once; each looks as if it were the first."""

from __future__ import annotations

import gc
from collections.abc import Mapping
from dataclasses import fields
from typing import Any
from weakref import ref

import pytest
from celery import Celery
from celery.app.task import Context
from celery.app.trace import build_tracer
from celery.exceptions import Ignore, Reject, SoftTimeLimitExceeded

from taskobs.celery.adapter import routes, runs
from taskobs.model import Run
from tests.support.recording import PrivateApp, Recorder, exceptions, outcome, parent_id

ROUTE = {"exchange": "", "routing_key": "celery", "priority": 3, "redelivered": False}
MESSAGE: dict[str, Any] = {
    "id": "id-1",
    "root_id": "root-1",
    "is_eager": False,
    "hostname": "celery@w1",
    "origin": "gen1@web",
    "correlation_id": "id-1",
    "reply_to": "replies",
    "delivery_info": ROUTE,
    "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
}
MESSAGES: tuple[Mapping[str, Any], ...] = (
    {},
    {"retries": 2, "timelimit": [None, 5], "eta": "2026-01-01T00:00:00+00:00"},
    {"delivery_info": {**ROUTE, "redelivered": True}},
    {"delivery_info": {**ROUTE, "priority": None}},
    {"delivery_info": {**ROUTE, "exchange": "orders", "routing_key": "orders.eu"}},
    {"delivery_info": {**ROUTE, "exchange": None}},
    {"delivery_info": {**ROUTE, "routing_key": "k" * 300}},
    {"delivery_info": {**ROUTE, "routing_key": "k" * 600}},
    {"delivery_info": {**ROUTE, "routing_key": ["no", "key"]}},
    {"delivery_info": {**ROUTE, "priority": "high"}},
    {"delivery_info": dict(reversed(ROUTE.items()))},
    {"delivery_info": {}},
    {"delivery_info": None},
    {"taskobs-queue": "other", "taskobs-broker": "redis 6379 broker.example"},
    {"taskobs-schedule": "nightly", "x-delivery-count": 2},
    {"parent_id": "parent-1", "group": "group-1", "expires": "soon"},
    {"is_eager": True},
    {"hostname": "celery@w2", "root_id": 5},
    {"headers": {"mine": "x", "taskobs-published-at": "1.5"}},
)


def fine() -> None: ...


def failing() -> None:
    raise ValueError("no")


def ignoring() -> None:
    raise Ignore("not now")


def rejecting() -> None:
    raise Reject("bad", requeue=True)


def slow() -> None:
    raise SoftTimeLimitExceeded


def expected() -> None:
    raise KeyError("as listed")


def retrying(self: Any) -> None:
    raise self.retry(countdown=0, exc=ValueError("again"))


def raised_by_a_hook() -> None: ...


def broken_hook(*_: object) -> None:
    raise RuntimeError("hook")


BODIES = (fine, failing, ignoring, rejecting, slow, expected, retrying, raised_by_a_hook)


@pytest.fixture(autouse=True)
def _no_routes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(routes, "_routes", {})


def made(app: Any, body: Any) -> Any:
    options: dict[str, Any] = {"bind": body is retrying, "throws": (KeyError,), "max_retries": 3}
    task = app.task(name="one", **options)(body)
    if body is raised_by_a_hook:
        task.on_success = broken_hook
    return task


def seen(app: Celery, task: Any, spans: Recorder, fields: Mapping[str, Any]) -> list[object]:
    """Run a task, and give all that its spans say but their ids and times."""
    spans.clear()
    trace_task: Any = build_tracer("one", task, app=app)
    trace_task("id-1", (), {}, {**MESSAGE, **fields})
    return [
        (
            *(span.name, span.kind, parent_id(span), outcome(span), exceptions(span)),
            {
                name: value
                for name, value in (span.attributes or {}).items()
                if name != "celery.queue_latency"
            },
            [event.name for event in span.events],
            len(span.links),
        )
        for span in spans.named("run one")
    ]


@pytest.mark.parametrize("body", BODIES)
def test_each_outcome_looks_the_same_the_usual_way_and_the_full_way(
    app: Celery, spans: Recorder, monkeypatch: pytest.MonkeyPatch, body: Any
) -> None:
    """My hundredth run is described as my first one is, however it ends."""
    task = made(app, body)
    for message in MESSAGES:
        monkeypatch.setattr(routes, "_routes", {})
        usual = [seen(app, task, spans, message) for _ in range(2)]
        with monkeypatch.context() as without:
            without.setattr(runs, "route_of", _unknown)
            full = seen(app, task, spans, message)
        assert len(full) == 1
        assert usual == [full, full], message


@pytest.mark.parametrize("message", MESSAGES)
def test_a_record_is_the_same_the_usual_way_and_the_full_way(
    app: Celery, monkeypatch: pytest.MonkeyPatch, message: Mapping[str, Any]
) -> None:
    """A hook of mine finds the same in each record, whatever its message had in common."""
    task = made(app, fine)
    other = {key: value for key, value in ROUTE.items() if key != "priority"}

    def record() -> dict[str, object]:
        run = runs.run_of(task, Context({**MESSAGE, **message}), (1,), {"a": 2}, 7.0)
        left_out = {"route", "stock", "ticks", "usual"}
        return {one.name: getattr(run, one.name) for one in fields(Run) if one.name not in left_out}

    runs.run_of(task, Context({**MESSAGE, "delivery_info": other}), (), {}, 1.0)
    usual = [record(), record()]
    monkeypatch.setattr(runs, "route_of", _unknown)
    assert usual == [record()] * 2


def _unknown(*_: object) -> None:
    """Know of nothing that messages have in common."""


def test_messages_of_strangers_fill_no_memory(app: Celery) -> None:
    """Somebody publishes to ever other routing keys: what is kept of them stays bounded."""
    task = made(app, fine)
    kept = 0
    for number in range(1_200):
        key = f"{number}".ljust(100 if number % 2 else 1_000, "x")
        found = {**ROUTE, "routing_key": key}
        run = runs.run_of(task, Context({**MESSAGE, "delivery_info": found}), (), {}, 1.0)
        assert run.queue == key[:255]  # as on the span of its publish
        assert (run.route is None) == (len(key) > 600)
        kept = max(kept, len(vars(routes)["_routes"]))
    assert 0 < kept <= 500


def test_a_second_app_has_routes_of_its_own(app: Celery) -> None:
    """Two apps of a process have a task of one name: each run has the broker of its own app."""
    with PrivateApp("other", broker="amqp://broker.example//", set_as_current=False) as other:
        tasks = [made(one, fine) for one in (app, other, app)]
        found = [runs.run_of(task, Context(MESSAGE), (), {}, 1.0).broker.system for task in tasks]
    assert found == ["memory", "rabbitmq", "memory"]


def test_what_is_kept_of_routes_keeps_no_app_alive() -> None:
    """An app that I make and drop, as tests do, goes, though it has run tasks."""

    def dropped(*, used: bool) -> Any:
        app = PrivateApp("short", broker="memory://", set_as_current=False)
        task = made(app, fine)
        app.connection_for_read().release()
        if used:
            assert runs.run_of(task, Context(MESSAGE), (), {}, 1.0).route is not None
        app.close()
        return ref(app)

    apps = dropped(used=False), dropped(used=True)
    gc.collect()
    kept_by_celery = apps[0]() is not None  # as in 5.3, once it has made a connection
    assert kept_by_celery or apps[1]() is None
