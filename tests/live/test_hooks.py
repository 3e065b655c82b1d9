"""Hooks in a real worker: on its spans, through the relay and without it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from taskobs.testing.receiver import Receiver
from tests.live.celery_process import Broker, LiveApp
from tests.live.shop import QUICK, Shop

if TYPE_CHECKING:
    from pathlib import Path

    from tests.live import services

HOOKED = "tests.live.apps.hooked"
RAN = {"hook.header": "travels", "hook.attempt": 1}


@pytest.mark.parametrize("relay", ["1", "0"], ids=["relay", "direct"])
def test_what_hooks_say_is_on_the_spans(
    relay: str, redis_server: services.Redis, tmp_path: Path
) -> None:
    """My hooks add attributes to publishes and runs, of a killed one too; a bug harms no task."""
    url, env = redis_server.url(), {**QUICK, "TASKOBS_RELAY": relay}
    with Receiver() as receiver, LiveApp(tmp_path, receiver.endpoint, receiver.dsn) as live:
        broker = Broker("redis", url, url)
        worker = live.worker(broker, app=HOOKED, env=env, concurrency=1)
        shop = Shop(live, broker, receiver, worker, live.producer(broker, app=HOOKED, env=env))
        calls = ("add.delay(1, 2)", "fail.delay()", "fail.delay()", "die.delay()")
        # Each is waited for, as without the relay a killed process loses what it has not sent.
        found = [said(shop, shop.call(call)) for call in calls]
        assert worker.stop() == 0
    sent = {"hook.queue": "celery"}
    assert found == [
        [sent, {**RAN, "hook.outcome": "succeeded"}],
        [sent, {"hook.outcome": "failed"}],
        [sent, {"hook.outcome": "failed"}],
        [sent, {"hook.outcome": "lost"}],  # told by the worker, in which the run did not begin
    ]
    assert worker.log.count(f"taskobs: the hook on_run={HOOKED}.on_run failed") == 1


def said(shop: Shop, task_id: str) -> list[dict[str, object]]:
    """Give what hooks said on the publish and the run of a task."""
    return [
        {name: value for name, value in span.attributes.items() if name.startswith("hook.")}
        for span in shop.spans(task_id, 2)
    ]
