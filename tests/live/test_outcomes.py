"""The outcome table: how a run can end, on a pool that forks and one that does not."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from taskobs import semconv
from tests.live.audit import WAREHOUSE, outcome
from tests.live.celery_process import SHOP
from tests.live.shop import tags, trace_of

if TYPE_CHECKING:
    from taskobs.testing.wire import ReceivedSpan
    from tests.live.audit import AuditedShop

PREFORK = ["redis-prefork", "rabbitmq-prefork"]
RETRIED = [
    pytest.param("retry_then_ok", marks=pytest.mark.row("retry", "retry")),
    pytest.param("autoretry_then_ok", marks=pytest.mark.row("retry", "autoretry_for")),
]
TAGS = {value for name, value in vars(semconv).items() if name.startswith("TAG_")} - {
    semconv.TAG_TRACE_URL  # only for those who set `trace_url`
}


def reasons(span: ReceivedSpan) -> list[object]:
    """Give the types of the exceptions that a span records."""
    noted = [moment for moment in span.events if moment.name == "exception"]
    return [moment.attributes["exception.type"] for moment in noted]


def links(span: ReceivedSpan) -> dict[object, str]:
    """Give the ids of the spans that a span is linked to, by the kind of the link."""
    assert {link.trace_id for link in span.links} <= {span.trace_id}
    return {link.attributes[semconv.LINK_KIND]: link.span_id for link in span.links}


@pytest.mark.row("success")
def test_success(each_shop: AuditedShop) -> None:
    """I see the publish and the run of my task in one trace, and nothing in Sentry."""
    task_id = each_shop.call("add.delay(1, 2)")
    publish, run = each_shop.spans(task_id, 2)
    assert (publish.name, run.name) == (f"publish {SHOP}.add", f"run {SHOP}.add")
    assert (publish.kind, run.kind) == ("producer", "consumer")
    assert publish.status != "error"
    assert run.status != "error"
    assert publish.parent_id == ""
    assert (run.trace_id, run.parent_id) == (publish.trace_id, publish.span_id)
    assert (outcome(run), run.attributes[semconv.CELERY_ATTEMPT]) == ("succeeded", 1)
    assert publish.start_ns < run.start_ns < run.end_ns
    assert each_shop.events(task_id, 0) == []


@pytest.mark.row("send_task")
def test_send_task_of_a_name_that_only_the_worker_knows(each_shop: AuditedShop) -> None:
    """I send a task by its name, and its publish lasts from before the send to its end."""
    source = f"""
import time
from celery.signals import after_task_publish, before_task_publish
assert "{WAREHOUSE}.restock" not in app.app.tasks
moments = []
def note(**_): moments.append(time.time_ns())
before_task_publish.connect(note)
after_task_publish.connect(note)
try:
    sent = app.app.send_task("{WAREHOUSE}.restock", (3,))
finally:
    before_task_publish.disconnect(note)
    after_task_publish.disconnect(note)
assert sent.get(timeout=90) == 3
result = [sent.id, *moments]
"""
    task_id, before, after = each_shop.run(source)
    publish, run = each_shop.spans(task_id, 2)
    assert publish.start_ns < before < after < publish.end_ns
    assert run.parent_id == publish.span_id
    assert (publish.status, outcome(run)) == ("unset", "succeeded")
    assert each_shop.events(task_id, 0) == []


def test_runs_are_described_both_ways(each_shop: AuditedShop) -> None:
    """Each row of this table on a pool that forks is tried the usual way and the full way."""
    source = "sent = app.way.delay(); result = [sent.id, sent.get(timeout=90)]"
    task_id, way = each_shop.run(source)
    assert way == ("full" if "APP_FULL_WAY" in each_shop.live.env else "usual")
    each_shop.spans(task_id, 2)


@pytest.mark.row("exception")
def test_exception(each_shop: AuditedShop) -> None:
    """I get one event, with every tag, that leads to the run's span, and is led to from there."""
    task_id = each_shop.call("fail.delay()")
    publish, run = each_shop.spans(task_id, 2)
    assert publish.status != "error"
    assert (run.status, run.message, outcome(run)) == ("error", "boom", "failed")
    assert run.attributes[semconv.ERROR_TYPE] == "ValueError"
    assert reasons(run) == ["ValueError"]
    [event] = each_shop.events(task_id, 1)
    assert run.attributes[semconv.SENTRY_EVENT_ID] == event.event_id
    assert trace_of(event) == (run.trace_id, run.span_id)
    assert event.data["transaction"] == f"{SHOP}.fail"
    assert tags(event).keys() >= TAGS
    assert {name: tags(event)[name] for name in TAGS} == {
        semconv.TAG_TASK: f"{SHOP}.fail",
        semconv.TAG_TASK_NAME: f"{SHOP}.fail",
        semconv.TAG_TASK_ID: task_id,
        semconv.TAG_STOCK_TASK_ID: task_id,
        semconv.TAG_ROOT_ID: task_id,
        semconv.TAG_QUEUE: "celery",
        semconv.TAG_ATTEMPT: 1,
        semconv.TAG_OUTCOME: "failed",
        semconv.TAG_HOSTNAME: run.attributes[semconv.CELERY_HOSTNAME],
    }


def test_arguments_stay_at_home(each_shop: AuditedShop) -> None:
    """I pass a secret to a task that fails, and it is nowhere in what leaves my machines."""
    secret, code = "4111-1111-1111-1111", "c0de-of-the-card"
    source = f"send_task('{WAREHOUSE}.charge', ('{secret}',), {{'code': '{code}'}})"
    task_id = each_shop.call(f"app.{source}")
    each_shop.spans(task_id, 2)
    [event] = each_shop.events(task_id, 1)
    assert "declined" in json.dumps(event.data)
    told = b"\n".join(request.body for request in each_shop.receiver.requests)
    assert b"declined" in told
    assert secret.encode() not in told
    assert code.encode() not in told


@pytest.mark.row("throws")
def test_expected_exception(each_shop: AuditedShop) -> None:
    """I announce an exception in ``throws``: it is noted, and alarms nobody."""
    task_id = each_shop.call("expected.delay()")
    publish, run = each_shop.spans(task_id, 2)
    assert (publish.status, run.status, outcome(run)) == ("unset", "unset", "failed")
    assert run.attributes[semconv.CELERY_EXPECTED] is True
    assert reasons(run) == [f"{SHOP}.OutOfStockError"]
    assert each_shop.events(task_id, 0) == []


@pytest.mark.parametrize("task", RETRIED)
def test_retry_then_success(each_shop: AuditedShop, task: str) -> None:
    """I see each attempt of a retried task beside the first, linked to the one before."""
    task_id = each_shop.call(f"{task}.delay(2)")
    spans = each_shop.spans(task_id, 6)
    publishes, runs = spans[::2], spans[1::2]
    first = publishes[0]
    assert {span.kind for span in publishes} == {"producer"}
    assert {span.kind for span in runs} == {"consumer"}
    assert {span.trace_id for span in spans} == {first.trace_id}
    assert [span.parent_id for span in spans] == ["", *[first.span_id] * 5]
    for attempts in (publishes, runs):
        assert [span.attributes[semconv.CELERY_ATTEMPT] for span in attempts] == [1, 2, 3]
    assert {span.status for span in spans} == {"unset"}
    assert [outcome(run) for run in runs] == ["retried", "retried", "succeeded"]
    for retried in runs[:2]:
        assert "not yet" in str(retried.attributes[semconv.CELERY_REASON])
        assert reasons(retried) == ["ValueError"]
    assert links(runs[0]) == {}
    for before, publish, run in zip(runs[:2], publishes[1:], runs[1:], strict=True):
        assert links(run) == {
            semconv.LINK_RETRY_OF: before.span_id,
            semconv.LINK_PUBLISH: publish.span_id,
        }
    assert each_shop.events(task_id, 0) == []


@pytest.mark.row("exhausted")
def test_retries_exhausted(each_shop: AuditedShop) -> None:
    """I hear of a task that is out of retries once: of its last attempt."""
    task_id = each_shop.call("exhausted.delay()")
    publish, first, again, last = each_shop.spans(task_id, 4)
    assert (publish.status, again.status) == ("unset", "unset")
    assert (outcome(first), first.status) == ("retried", "unset")
    assert (outcome(last), last.status) == ("failed", "error")
    [event] = each_shop.events(task_id, 1)
    assert trace_of(event) == (last.trace_id, last.span_id)
    assert str(tags(event)[semconv.TAG_ATTEMPT]) == "2"


def test_retry_that_can_not_be_published(each_shop: AuditedShop) -> None:
    """I retry with arguments that my task doesn't take: it is gone, and I hear of it, and why."""
    task_id = each_shop.run(f"result = app.app.send_task('{WAREHOUSE}.retries_wrongly').id")
    publish, run = each_shop.spans(task_id, 2)
    assert (publish.status, run.status, outcome(run)) == ("unset", "error", "failed")
    assert run.attributes[semconv.ERROR_TYPE] == "TypeError"
    [event] = each_shop.events(task_id, 1)
    assert trace_of(event) == (run.trace_id, run.span_id)
    assert tags(event)[semconv.TAG_OUTCOME] == "failed"
    assert [one["type"] for one in event.data["exception"]["values"]] == ["ValueError", "TypeError"]  # type: ignore[index]


@pytest.mark.row("ignore, reject", "Ignore")
def test_ignore(each_shop: AuditedShop) -> None:
    """I ignore a run, and it is no error."""
    task_id = each_shop.run("result = app.ignore.delay().id")
    publish, run = each_shop.spans(task_id, 2)
    assert (publish.status, run.status, outcome(run)) == ("unset", "unset", "ignored")
    assert reasons(run) == []
    assert each_shop.events(task_id, 0) == []


@pytest.mark.row("ignore, reject", "Reject")
def test_reject(each_shop: AuditedShop) -> None:
    """I reject a message for good, and it is no error."""
    task_id = each_shop.run("result = app.reject.delay().id")
    publish, run = each_shop.spans(task_id, 2)
    assert (publish.status, run.status, outcome(run)) == ("unset", "unset", "rejected")
    assert run.attributes[semconv.CELERY_REASON] == "not mine"
    assert semconv.CELERY_REQUEUED not in run.attributes
    assert each_shop.events(task_id, 0) == []


@pytest.mark.row("ignore, reject", "Reject, requeue")
def test_reject_and_requeue(each_shop: AuditedShop) -> None:
    """I put a message back, and see both of its deliveries under its publish."""
    task_id = each_shop.call("reject.delay(requeue=True)")
    publish, rejected, again = each_shop.spans(task_id, 3)
    assert {span.status for span in (publish, rejected, again)} == {"unset"}
    assert rejected.parent_id == again.parent_id == publish.span_id
    assert (outcome(rejected), outcome(again)) == ("rejected", "succeeded")
    assert rejected.attributes[semconv.CELERY_REQUEUED] is True
    assert again.attributes[semconv.CELERY_REDELIVERED] is True
    assert each_shop.events(task_id, 0) == []


@pytest.mark.row("soft time limit")
@pytest.mark.parametrize("each_shop", PREFORK, indirect=True)
def test_soft_time_limit(each_shop: AuditedShop) -> None:
    """I get one event of a task that ran into its soft limit, in a group for that task."""
    task_id = each_shop.call("soft_limit.delay()")
    publish, run = each_shop.spans(task_id, 2)
    assert (publish.status, run.status, outcome(run)) == ("unset", "error", "failed")
    assert str(run.attributes[semconv.ERROR_TYPE]).endswith("SoftTimeLimitExceeded")
    [event] = each_shop.events(task_id, 1)
    assert event.data["fingerprint"] == ["celery", "SoftTimeLimitExceeded", f"{SHOP}.soft_limit"]
    assert trace_of(event) == (run.trace_id, run.span_id)


@pytest.mark.parametrize("each_shop", PREFORK, indirect=True)
def test_soft_time_limit_that_the_task_handles(each_shop: AuditedShop) -> None:
    """I clean up when the soft limit comes, and succeed."""
    task_id = each_shop.call("soft_limit_handled.delay()")
    _, run = each_shop.spans(task_id, 2)
    assert (run.status, outcome(run)) == ("unset", "succeeded")
    assert each_shop.events(task_id, 0) == []


@pytest.mark.row("result")
def test_result_that_cannot_be_stored(each_shop: AuditedShop) -> None:
    """I return what JSON can't hold, and hear of it once."""
    task_id = each_shop.call("unserializable.delay()")
    _, run = each_shop.spans(task_id, 2)
    assert (run.status, outcome(run)) == ("error", "failed")
    [event] = each_shop.events(task_id, 1)
    assert run.attributes[semconv.SENTRY_EVENT_ID] == event.event_id
    assert trace_of(event) == (run.trace_id, run.span_id)


@pytest.mark.parametrize("hook", ["on_success", "after_return"])
def test_hook_that_raises(each_shop: AuditedShop, hook: str) -> None:
    """I break a hook of my task, and hear of it once, from the run's own span."""
    broken_hook(each_shop, hook)


@pytest.mark.parametrize("each_shop", PREFORK, indirect=True)
def test_on_failure_that_raises(each_shop: AuditedShop) -> None:
    """I break the hook for failures, and hear of it once; without prefork it ends the worker."""
    broken_hook(each_shop, "on_failure")


def broken_hook(shop: AuditedShop, hook: str) -> None:
    task_id = shop.run(f"result = app.app.send_task('{WAREHOUSE}.broken_{hook}').id")
    publish, run = shop.spans(task_id, 2)
    [event] = shop.events(task_id, 1)
    assert run.parent_id == publish.span_id
    assert run.attributes[semconv.SENTRY_EVENT_ID] == event.event_id
    assert trace_of(event) == (run.trace_id, run.span_id)
    assert tags(event)[semconv.TAG_OUTCOME] == run.attributes[semconv.CELERY_OUTCOME]
    assert "the hook is broken" in json.dumps(event.data)


def test_nothing_else_came(each_shop: AuditedShop) -> None:
    """I stop the worker, and all that it sent are the spans and events of the tests above."""
    each_shop.audit()
