"""The outcome table: what travels in messages, what is not sent, and what needs no message."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from taskobs import semconv
from tests.live.audit import outcome
from tests.live.celery_process import SHOP
from tests.live.shop import QUICK, tags, trace_of

if TYPE_CHECKING:
    from tests.live.audit import AuditedShop


@pytest.mark.row("baggage, headers, stamps")
def test_baggage_headers_and_stamps_arrive(each_shop: AuditedShop) -> None:
    """I send baggage, a header and a stamp of my own with a task, and it gets each of them."""
    source = """
from opentelemetry import baggage, context
token = context.attach(baggage.set_baggage("tenant", "blue"))
task = app.echo_request.s().set(headers={"x-user": "ada", "baggage": "own=1"})
task.stamp(order="42")
sent = task.apply_async()
context.detach(token)
result = {**sent.get(timeout=90), "id": sent.id}
"""
    seen = each_shop.run(source)
    publish, run = each_shop.spans(seen["id"], 2)
    assert seen["baggage"] == {"tenant": "blue", "own": "1"}
    assert seen["headers"]["x-user"] == "ada"
    assert seen["stamps"]["order"] in ("42", ["42"])
    *address, flags = seen["traceparent"].split("-")
    assert (address, int(flags, 16) & 1) == (["00", publish.trace_id, publish.span_id], 1)
    assert (run.trace_id, run.parent_id) == (publish.trace_id, publish.span_id)
    assert seen["trace_id"] == run.trace_id
    assert run.attributes[semconv.CELERY_QUEUE_LATENCY] >= 0  # type: ignore[operator]
    assert each_shop.events(seen["id"], 0) == []


def test_what_a_run_publishes_carries_on(each_shop: AuditedShop) -> None:
    """I publish a task from a task, and its spans hang on the run that published it."""
    source = """
sent = app.calls_add.delay(1, 2)
inner = app.app.AsyncResult(sent.get(timeout=90))
inner.get(timeout=90)
result = [sent.id, inner.id]
"""
    outer_id, inner_id = each_shop.run(source)
    _, outer = each_shop.spans(outer_id, 2)
    publish, inner = each_shop.spans(inner_id, 2)
    assert (publish.parent_id, inner.parent_id) == (outer.span_id, publish.span_id)
    assert {publish.trace_id, inner.trace_id} == {outer.trace_id}
    for span in (publish, inner):
        assert span.attributes[semconv.CELERY_ROOT_ID] == outer_id
        assert span.attributes[semconv.CELERY_PARENT_ID] == outer_id


@pytest.mark.row("protocol 1")
@pytest.mark.parametrize(
    ("call", "ends"), [("add.delay(1, 2)", "succeeded"), ("fail.delay()", "failed")]
)
def test_task_protocol_1(each_shop: AuditedShop, call: str, ends: str) -> None:
    """I still send messages of the first task protocol, and their traces are whole."""
    source = f"""
app.app.conf.task_protocol = 1
try:
    sent = app.{call}
finally:
    app.app.conf.task_protocol = 2
sent.get(timeout=90, propagate=False)
result = sent.id
"""
    task_id = each_shop.run(source)
    publish, run = each_shop.spans(task_id, 2)
    assert publish.parent_id == ""
    assert (run.trace_id, run.parent_id) == (publish.trace_id, publish.span_id)
    assert (publish.status, outcome(run)) == ("unset", ends)
    events = each_shop.events(task_id, 1 if ends == "failed" else 0)
    assert [trace_of(event) for event in events] == [(run.trace_id, run.span_id)][: len(events)]


@pytest.mark.row("sampled out")
def test_sampled_out(each_shop: AuditedShop) -> None:
    """I record no traces, and errors still come with the ids of the trace they belong to."""
    unsampled = each_shop.live.producer(
        each_shop.broker, env={**QUICK, "APP_INIT": '{"sample_rate": 0}'}
    )
    source = """
from opentelemetry import trace
with trace.get_tracer("web").start_as_current_span("GET /") as span:
    seen, failed = app.echo_request.delay(), app.fail.delay()
failed.get(timeout=90, propagate=False)
trace_id = f"{span.get_span_context().trace_id:032x}"
result = [trace_id, seen.get(timeout=90), seen.id, failed.id]
"""
    trace_id, seen, seen_id, failed_id = unsampled.run(source)
    assert seen["trace_id"] == trace_id
    assert int(seen["traceparent"].rpartition("-")[2], 16) & 1 == 0
    [event] = each_shop.events(failed_id, 1)
    assert trace_of(event)[0] == trace_id
    assert tags(event)[semconv.TAG_TASK] == f"{SHOP}.fail"
    assert unsampled.close() == 0
    for task_id in (seen_id, failed_id):
        assert each_shop.spans(task_id, 0) == []


@pytest.mark.row("eager", "inside a run")
def test_eager_run_inside_a_run(each_shop: AuditedShop) -> None:
    """I run a task eagerly in another one, and its span hangs on the other's."""
    task_id = each_shop.call("eager_inner.delay(1)")
    publish, outer = each_shop.spans(task_id, 2)
    assert (publish.status, outer.status, outcome(outer)) == ("unset", "unset", "succeeded")
    _, _, inner = each_shop.trace(publish.trace_id, 3)
    assert (inner.name, inner.parent_id) == (f"run {SHOP}.add", outer.span_id)
    assert inner.attributes[semconv.CELERY_EAGER] is True
    inner_id = str(inner.attributes[semconv.MESSAGING_MESSAGE_ID])
    assert each_shop.spans(inner_id, 1) == [inner]
    assert each_shop.events(task_id, 0) == each_shop.events(inner_id, 0) == []


@pytest.mark.row("eager", "inside a run")
def test_eager_failure_inside_a_run(each_shop: AuditedShop) -> None:
    """I let an eager run's error through, and hear of the one error once."""
    task_id = each_shop.call("eager_fail.delay()")
    publish, outer = each_shop.spans(task_id, 2)
    _, _, inner = each_shop.trace(publish.trace_id, 3)
    assert inner.parent_id == outer.span_id
    for run in (outer, inner):
        assert (run.status, outcome(run)) == ("error", "failed")
    inner_id = str(inner.attributes[semconv.MESSAGING_MESSAGE_ID])
    assert each_shop.spans(inner_id, 1) == [inner]
    [event] = each_shop.events(inner_id, 1)
    assert trace_of(event) == (inner.trace_id, inner.span_id)
    assert each_shop.events(task_id, 0) == []


def test_nothing_else_came(each_shop: AuditedShop) -> None:
    """I stop the worker, and all that it sent are the spans and events of the tests above."""
    each_shop.audit()
