"""Messages from anybody: whatever is in their headers, the task runs and its run is seen."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest
from kombu import Connection

from taskobs import semconv
from tests.live.audit import WAREHOUSE, outcome
from tests.live.celery_process import SHOP

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tests.live.audit import AuditedShop

OURS = ("traceparent", "tracestate", "baggage", semconv.HEADER_PUBLISHED_AT, semconv.HEADER_LINKS)
LONG = {"redis": 1_000_000, "rabbitmq": 20_000}
"""Characters: RabbitMQ takes no headers above its frame size of 128 KiB in all."""
ODD: Mapping[str, object] = {
    "bytes": b"\xff\x00\x80",
    "a list": [1, ["2"]],
    "a dict": {"a": {"b": 1}},
    "an int": -1,
    "a float": 1e300,
    "a bool": True,
    "nothing": None,
    "empty": "",
    "controls": "\x00\r\n\u202e\ufeff",
    "infinite": "inf",
    "a comma": ",",
    "half a traceparent": "00-" + "f" * 32 + "-" + "0" * 16 + "-zz",
    "commas and colons": "a:b,c:00-1-2-3," * 100,
}
IDS = {"root_id": {"a": 1}, "parent_id": [1], "origin": 7}
SMALL = 100_000
"""Bytes: what the spans and the event of one task stay below."""


def send(
    shop: AuditedShop, task: str, args: Sequence[Any], headers: Mapping[str, object], **kwargs: Any
) -> str:
    """Publish as a program does that knows Celery's protocol and nothing of taskobs."""
    task_id = str(uuid4())
    task_headers = {"id": task_id, "task": task, "lang": "py", "root_id": task_id}
    with Connection(shop.broker.url) as connection:
        connection.Producer().publish(
            [args, kwargs, {}],
            serializer="json",
            headers={**task_headers, **headers},
            exchange="",
            routing_key="celery",
            correlation_id=task_id,
        )
    return task_id


def runs(shop: AuditedShop, headers: Mapping[str, object]) -> None:
    """See that a task with these headers runs, and is a trace of its own."""
    task_id = send(shop, f"{SHOP}.add", [1, 2], headers)
    assert shop.run(f"result = app.app.AsyncResult({task_id!r}).get(timeout=90)") == 3
    [run] = shop.spans(task_id, 1)
    assert (run.parent_id, run.status, outcome(run)) == ("", "unset", "succeeded")
    assert shop.events(task_id, 0) == []


@pytest.mark.parametrize("kind", ODD)
def test_unexpected_values_of_our_headers(each_shop: AuditedShop, kind: str) -> None:
    """Somebody writes other things than text where our headers are."""
    runs(each_shop, dict.fromkeys(OURS, ODD[kind]))


@pytest.mark.parametrize("name", OURS)
def test_long_headers(each_shop: AuditedShop, name: str) -> None:
    """Somebody's header is a megabyte long."""
    runs(each_shop, {name: "1" * LONG[each_shop.broker.kind]})


@pytest.mark.parametrize("nested", [[1], "text", 7, {"traceparent": 5, "baggage": ["x"]}], ids=str)
def test_unexpected_nested_headers(each_shop: AuditedShop, nested: object) -> None:
    """Somebody's nested headers are no dict, or a dict of other things than text."""
    runs(each_shop, {"headers": nested})


@pytest.mark.parametrize("name", IDS)
def test_unexpected_ids(each_shop: AuditedShop, name: str) -> None:
    """Somebody's ids are no text."""
    runs(each_shop, {name: IDS[name]})


def test_a_trace_continues_beside_unexpected_headers(each_shop: AuditedShop) -> None:
    """Somebody's trace is right and the baggage beside it is not: the trace goes on."""
    trace_id, span_id = uuid4().hex, uuid4().hex[:16]
    unexpected: dict[str, object] = {
        "baggage": [1],
        semconv.HEADER_LINKS: {},
        semconv.HEADER_PUBLISHED_AT: "soon",
    }
    headers = {"traceparent": f"00-{trace_id}-{span_id}-01", **unexpected}
    task_id = send(each_shop, f"{SHOP}.add", [1, 2], headers)
    [run] = each_shop.spans(task_id, 1)
    assert (run.trace_id, run.parent_id) == (trace_id, span_id)
    assert semconv.CELERY_QUEUE_LATENCY not in run.attributes


def test_large_arguments_stay_at_home(each_shop: AuditedShop) -> None:
    """My task fails over five megabytes of argument, and neither span nor event has any of it."""
    secret = "a1b2" * 1_250_000
    task_id = send(each_shop, f"{WAREHOUSE}.charge", [secret], {}, code="x")
    [event] = each_shop.events(task_id, 1)
    text = json.dumps(event.data)
    assert len(text) < SMALL
    assert secret[:16] not in text
    [run] = each_shop.spans(task_id, 1)
    assert run.status == "error"
    assert secret[:16] not in str(run)
    assert len(str(run)) < SMALL


def test_nothing_else_came(each_shop: AuditedShop) -> None:
    """The worker is well, and has told nothing but the runs of the tests above."""
    runs(each_shop, {})
    each_shop.audit()
