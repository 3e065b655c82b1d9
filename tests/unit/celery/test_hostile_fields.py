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


FIELDS: list[dict[str, Any]] = [
    {"timelimit": 5},
    {"timelimit": "soon"},
    {"timelimit": [1]},
    {"timelimit": [None, "x", 3]},
    {"timelimit": [NESTED, Mute()]},
    {"retries": "x", "origin": NESTED},
    {"eta": 5, "expires": Mute()},
    {"eta": "soon", "taskobs-published-at": "1"},
    {"headers": 3},
    {"headers": [1, 2]},
    {"delivery_info": {"exchange": NESTED, "routing_key": 3, "priority": Mute()}},
    {"delivery_info": {"exchange": "e", "routing_key": Mute()}},
    {"root_id": NESTED, "parent_id": 3},
    {"reply_to": Mute(), "correlation_id": NESTED},
    {"hostname": None, "origin": Mute()},
    {"x-death": Mute(), "x-delivery-count": NESTED},
    {"taskobs-queue": 3, "taskobs-broker": "x"},
    {"taskobs-links": "x", "taskobs-schedule": NESTED, "traceparent": 5},
]


@pytest.mark.parametrize("fields", FIELDS)
def test_a_run_is_seen_whatever_its_message_says(
    app: Celery, spans: Recorder, fields: dict[str, Any]
) -> None:
    """Somebody writes anything into a message, and I still see its run, and how it ended."""

    @app.task(name="fine")
    def fine() -> None: ...

    message: dict[str, Any] = {"id": "id-1", "task": "fine", "is_eager": False}
    message |= {"delivery_info": {"exchange": "", "routing_key": "celery"}, **fields}
    trace_task: Any = build_tracer("fine", fine, app=app)
    trace_task("id-1", (), {}, message)
    run = spans.one("run fine")
    assert attribute(run, "messaging.message.id") == "id-1"
    assert attribute(run, "celery.outcome") == "succeeded"


OPTIONS: list[dict[str, Any]] = [
    {"expires": 1e9},
    {"shadow": "x"},
    {"headers": {"mine": "x", "taskobs-queue": "evil"}},
]


@pytest.mark.parametrize("options", OPTIONS)
def test_a_publish_is_seen_whatever_it_is_given(
    app: Celery, spans: Recorder, options: dict[str, Any]
) -> None:
    """I publish with options of any kind, and see the publish."""
    app.send_task("fine", **options)
    assert attribute(spans.one("publish fine"), "celery.queue") == "celery"


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
