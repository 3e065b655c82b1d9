from __future__ import annotations

from typing import Any

import pytest
from celery import Celery
from celery.app.task import Context

from taskobs.celery.adapter.publishes import complete, publish_of
from taskobs.celery.adapter.runs import run_of
from taskobs.model import Run


def a_run() -> Run:
    return Run(task="add", name="add", task_id="id-1")


@pytest.mark.parametrize(
    ("retries", "attempt"),
    [
        *((None, 1), (0, 1), (2, 3), (-7, 1), ("x", 1), ("2", 1), (True, 1), (1.5, 1)),
        ([1], 1),
        pytest.param(10**400, 1, id="huge"),
    ],
)
def test_retries_that_are_no_number_are_a_first_attempt(
    app: Celery, retries: object, attempt: int
) -> None:
    """Whatever a sender writes into `retries`, the run and its publish are seen."""
    run = run_of(app.tasks["celery.map"], Context({"id": "id-1", "retries": retries}), (), {}, 1.0)
    assert run.attempt == attempt
    publish = publish_of(app, "add", {"retries": retries, "task_id": "id-1"}, run)
    message: dict[str, Any] = {
        "headers": {"id": "id-1", "retries": retries},
        "body": ((), {}, {}),
        "exchange": "",
        "routing_key": "orders",
        "declare": (),
        "properties": {},
    }
    complete(publish, app, message)
    assert publish.attempt == attempt


def test_the_next_attempt_is_known_as_such(app: Celery) -> None:
    """What a run publishes under its own id, one retry later, is its next attempt."""
    run = a_run()
    run.attempt = 2
    for retries, again in ((2, run), (1, None), (3, None), ("x", None), (None, None)):
        options = {"task_id": run.task_id, "retries": retries}
        assert publish_of(app, "add", options, run).retries is again


@pytest.mark.parametrize(
    ("url", "given", "timed"),
    [
        ("amqp://", {}, True),
        ("amqp://", {"timestamp": "mine"}, False),
        ("redis://", {}, False),
        ("memory://", {}, False),
    ],
)
def test_rabbitmq_is_told_when_a_message_was_published(
    url: str, given: dict[str, Any], *, timed: bool
) -> None:
    """RabbitMQ tells me how old the oldest message of a queue is; what I wrote there stays."""
    with Celery(broker=url, set_as_current=False) as app:
        publish = publish_of(app, "add", {}, None)
        message: dict[str, Any] = {"headers": {"id": "id-1"}, "body": ((), {}, {}), "declare": ()}
        message |= {"exchange": "", "routing_key": "orders", "properties": {**given}}
        complete(publish, app, message)
        found = message["properties"].pop("timestamp", None)
        assert isinstance(found, int) == timed
        assert timed or found == given.get("timestamp")
        assert message["properties"] == {}
