"""What can't be worked out of a message costs its own attribute, and nothing else."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from celery import Celery
from celery.app.trace import build_tracer

from tests.support.recording import Recorder, attribute

NESTED: dict[str, Any] = {"a": [1, {"b": None}]}


class Mute:
    def __str__(self) -> str:
        raise RuntimeError("no")

    __repr__ = __str__


def fine() -> None: ...


TIME_LIMIT = {"celery.timelimit"}
ETA = {"celery.eta", "celery.expires"}
IDS = {"celery.root_id", "celery.parent_id"}
ORIGIN = {"celery.origin"}
REPLY = {"celery.reply_to", "messaging.conversation_id"}
ROUTE = {
    *("celery.exchange", "celery.routing_key", "celery.priority", "celery.delivery_info"),
    *("celery.queue", "messaging.destination.name"),
    *("messaging.destination", "messaging.destination_kind"),
}
QUEUE = {"celery.queue", "messaging.destination.name"}
BROKER = {"messaging.system", "server.address", "server.port"}
FIELDS: list[tuple[dict[str, Any], set[str]]] = [
    ({"timelimit": 5}, TIME_LIMIT),
    ({"timelimit": "soon"}, TIME_LIMIT),
    ({"timelimit": [1]}, TIME_LIMIT),
    ({"timelimit": [None, "x", 3]}, TIME_LIMIT),
    ({"timelimit": [NESTED, Mute()]}, TIME_LIMIT),
    ({"retries": "x", "origin": NESTED}, {*ORIGIN, "celery.retries"}),
    ({"eta": 5, "expires": Mute()}, ETA),
    ({"eta": "soon", "taskobs-published-at": "1"}, ETA),
    ({"headers": 3}, set()),
    ({"headers": [1, 2]}, set()),
    ({"delivery_info": {"exchange": NESTED, "routing_key": 3, "priority": Mute()}}, ROUTE),
    ({"delivery_info": {"exchange": "e", "routing_key": Mute()}}, ROUTE),
    ({"root_id": NESTED, "parent_id": 3}, IDS),
    ({"reply_to": Mute(), "correlation_id": NESTED}, REPLY),
    ({"hostname": None, "origin": Mute()}, {*ORIGIN, "celery.hostname"}),
    ({"x-death": Mute(), "x-delivery-count": NESTED}, set()),
    ({"taskobs-queue": 3, "taskobs-broker": "x"}, BROKER),
    ({"taskobs-queue": "other"}, QUEUE),
    ({"taskobs-links": "x", "taskobs-schedule": NESTED, "traceparent": 5}, set()),
]
"""What somebody writes into a message, and the attributes that say something else by that."""


def attributes_of_a_run(
    app: Celery, task: Any, spans: Recorder, fields: dict[str, Any]
) -> dict[str, object]:
    message: dict[str, Any] = {
        "id": "id-1",
        "task": "fine",
        "is_eager": False,
        "hostname": "celery@w1",
        "root_id": "root-1",
        "delivery_info": {"exchange": "", "routing_key": "celery", "priority": 3},
        **fields,
    }
    trace_task: Any = build_tracer("fine", task, app=app)
    spans.clear()
    trace_task("id-1", (), {}, message)
    return dict(spans.one("run fine").attributes or {})


@pytest.mark.parametrize(("fields", "theirs"), FIELDS)
def test_a_run_is_seen_whatever_its_message_says(
    app: Celery, spans: Recorder, fields: dict[str, Any], theirs: set[str]
) -> None:
    """Somebody writes anything into a message: what else I know of its run is as it would be."""
    task = app.task(name="fine")(fine)
    right = attributes_of_a_run(app, task, spans, {})
    found = attributes_of_a_run(app, task, spans, fields)
    assert found["messaging.message.id"] == "id-1"
    assert found["celery.outcome"] == "succeeded"
    assert without(found, theirs) == without(right, theirs)


def without(attributes: dict[str, object], names: set[str]) -> dict[str, object]:
    """Give the attributes that are not named."""
    return {key: value for key, value in attributes.items() if key not in names}


OPTIONS: list[tuple[dict[str, Any], set[str]]] = [
    ({"expires": 1e9}, {"celery.expires"}),
    ({"shadow": "x"}, set()),
    ({"headers": {"mine": "x", "taskobs-queue": "evil"}}, set()),
    ({"priority": 300}, {"celery.priority"}),
    ({"root_id": 5, "parent_id": 6}, IDS),
    ({"routing_key": "x" * 300, "exchange": "e" * 300, "declare": []}, ROUTE),
]
"""What a message is published with, and the attributes that say something else by that."""


def attributes_of_a_publish(
    app: Celery, spans: Recorder, options: dict[str, Any]
) -> dict[str, object]:
    spans.clear()
    app.send_task("fine", task_id="id-1", **options)
    return dict(spans.one("publish fine").attributes or {})


@pytest.mark.parametrize(("options", "theirs"), OPTIONS)
def test_a_publish_is_seen_whatever_it_is_given(
    app: Celery, spans: Recorder, options: dict[str, Any], theirs: set[str]
) -> None:
    """I publish with options of any kind: what else I know of the publish is as it would be."""
    right = attributes_of_a_publish(app, spans, {})
    found = attributes_of_a_publish(app, spans, options)
    assert found["messaging.message.id"] == "id-1"
    assert without(found, theirs) == without(right, theirs)


def test_a_broker_that_can_not_be_told_costs_its_address_alone(
    app: Celery, spans: Recorder, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Where taskobs can't tell my broker, my publish has its span, its headers and its queue."""

    def refuse(*_: object) -> None:
        raise ValueError("no")

    monkeypatch.setattr("taskobs.celery.adapter.brokers.urlsplit", refuse)
    monkeypatch.setattr("taskobs.celery.adapter.brokers._of_apps", {})
    monkeypatch.setattr("taskobs.celery.adapter.brokers._of_connections", {})
    monkeypatch.setattr(app, "connection_for_read", refuse)
    with caplog.at_level(logging.WARNING):
        app.send_task("fine")
    publish = spans.one("publish fine")
    assert attribute(publish, "celery.queue") == "celery"
    assert not caplog.records
