"""The outcome table: messages that come a second time."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from taskobs import semconv
from tests.live.audit import AuditedShop
from tests.live.shop import QUICK, trace_of

if TYPE_CHECKING:
    from taskobs.testing.receiver import Receiver
    from taskobs.testing.wire import ReceivedSpan
    from tests.live.celery_process import Broker, LiveApp

AGAIN = "tests.live.apps.redelivery"
HASTY = {"visibility_timeout": 10, "unacked_restore_interval": 1, "unacked_restore_throttle": 1}
"""Seconds: enough for the second run to end before its message comes a third time."""


def open_shop(
    live: LiveApp, broker: Broker, receiver: Receiver, pool: str = "prefork"
) -> AuditedShop:
    """Start a worker and a producer."""
    worker = live.worker(broker, app=AGAIN, pool=pool, env=QUICK)
    return AuditedShop(live, broker, receiver, worker, live.producer(broker, app=AGAIN, env=QUICK))


def two_runs(shop: AuditedShop, task_id: str) -> list[ReceivedSpan]:
    """Give the spans of both deliveries, which hang on the one publish; the first began first."""
    publish, *runs = shop.spans(task_id, 3)
    assert publish.status == "unset"
    assert {run.parent_id for run in runs} == {publish.span_id}
    assert {run.trace_id for run in runs} == {publish.trace_id}
    assert [run.attributes.get(semconv.CELERY_REDELIVERED) for run in runs] == [None, True]
    assert [run.attributes[semconv.CELERY_ATTEMPT] for run in runs] == [1, 1]
    return runs


@pytest.mark.row("redelivery", "reject_on_worker_lost")
@pytest.mark.parametrize("pool", ["prefork", "spawn"])
def test_killed_child_whose_message_goes_back(
    live: LiveApp, receiver: Receiver, broker: Broker, pool: str
) -> None:
    """I let the messages of killed runs go back: I see each delivery, and hear of the loss."""
    shop = open_shop(live, broker, receiver, pool)
    task_id = shop.call("die_once.delay()")
    lost, again = two_runs(shop, task_id)
    assert lost.attributes[semconv.CELERY_OUTCOME] == "lost"
    assert lost.attributes[semconv.CELERY_SIGNAL] == "SIGKILL"
    assert (again.status, again.attributes[semconv.CELERY_OUTCOME]) == ("unset", "succeeded")
    [event] = shop.events(task_id, 1)
    assert trace_of(event) == (lost.trace_id, lost.span_id)
    shop.audit()


@pytest.mark.row("redelivery", "visibility timeout")
@pytest.mark.parametrize("pool", ["prefork", "spawn", "threads"])
def test_visibility_timeout(
    live: LiveApp, receiver: Receiver, redis_broker: Broker, pool: str
) -> None:
    """I run longer than Redis' visibility timeout, and see that the task ran twice, and where."""
    shop = open_shop(live, replace(redis_broker, options=HASTY), receiver, pool)
    task_id = shop.call(f"meet_again.delay({str(live.folder / 'place')!r})")
    runs = two_runs(shop, task_id)
    assert [run.status for run in runs] == ["unset"] * 2
    assert [run.attributes[semconv.CELERY_OUTCOME] for run in runs] == ["succeeded"] * 2
    processes = {run.attributes[semconv.PROCESS_PID] for run in runs}
    assert len(processes - {shop.worker.pid}) == (2 if pool in ("prefork", "spawn") else 0)
    assert shop.events(task_id, 0) == []
    shop.audit()
