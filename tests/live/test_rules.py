"""Rules of single tasks, in every process of an app: producer, worker, pool children, beat."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, cast

import pytest

from taskobs import semconv
from tests.live.shop import Shop, open_shop, tags, trace_of

if TYPE_CHECKING:
    from taskobs.testing.receiver import Receiver
    from taskobs.testing.wire import ReceivedEvent, ReceivedSpan
    from tests.live.celery_process import Broker, LiveApp

SHOP = "tests.live.apps.shop."
RULES: dict[str, dict[str, object]] = {
    f"{SHOP}add": {"sample_rate": 1.0},
    f"{SHOP}die": {"sample_rate": 1, "errors": False},
    f"{SHOP}calls_*": {"sample_rate": 1.0, "link": True},
    f"{SHOP}fail": {"send_arguments": True},
}
INIT = {"APP_INIT": json.dumps({"sample_rate": 0, "tasks": RULES})}
CARD = "4111-1111-1111-1111"


def names(spans: list[ReceivedSpan]) -> list[str]:
    return [span.name.replace(SHOP, "") for span in spans]


def arguments(event: ReceivedEvent) -> object:
    contexts = cast("dict[str, dict[str, Any]]", event.data["contexts"])
    return contexts[semconv.SENTRY_CONTEXT].get("args")


@pytest.mark.parametrize("relay", ["1", "0"], ids=["relay", "direct"])
def test_rules_hold_in_each_process(
    live: LiveApp, receiver: Receiver, redis_broker: Broker, relay: str
) -> None:
    """I trace what I name, am told of no dead child of one task, and see arguments of another.

    A killed child's run is reported by another process than an ordinary one, by the same rule.
    """
    shop = open_shop(live, redis_broker, receiver, env={**INIT, "TASKOBS_RELAY": relay})
    added = shop.call("add.delay(1, 2)")
    assert names(shop.spans(added, 2)) == ["publish add", "run add"]  # before a child is killed
    died = shop.call("die.delay('KILL')")
    linked = shop.call("calls_add.delay(3, 4)")
    failed = shop.call(f"fail.delay({CARD!r})")
    limited = shop.call("hard_limit.delay()")
    shop.run(
        "import taskobs\n"
        "with taskobs.untraced():\n"
        "    sent = app.calls_add.delay(5, 6)\n"
        "sent.get(timeout=90)"
    )
    assert names(shop.spans(died, 2)) == ["publish die", "run die"]
    follow_the_link(shop, linked)
    (event,) = shop.events(failed, 1)
    assert arguments(event) == [CARD]
    (event,) = shop.events(limited, 1)
    assert arguments(event) is None
    assert shop.producer.close() == 0
    assert shop.worker.stop() == 0
    assert sorted(str(tags(event)[semconv.TAG_TASK_ID]) for event in receiver.events) == sorted(
        [failed, limited]
    )
    # Of the call in the block there is nothing but its linked run, whose trace is its own.
    assert sorted(names(list(receiver.spans))) == sorted(
        [
            *("publish add", "run add", "publish die", "run die"),
            *("publish calls_add", "run calls_add", "publish add", "run add"),
            *("run calls_add", "publish add", "run add"),
        ]
    )


def follow_the_link(shop: Shop, task_id: str) -> None:
    """A linked run is the root of a trace, in which is what it calls."""
    publish, run = shop.spans(task_id, 2)
    assert run.trace_id != publish.trace_id
    assert not run.parent_id
    assert [(link.span_id, link.attributes[semconv.LINK_KIND]) for link in run.links] == [
        (publish.span_id, semconv.LINK_PUBLISH)
    ]
    assert names(shop.trace(run.trace_id, 3)) == ["run calls_add", "publish add", "run add"]


def test_the_event_of_a_linked_run_is_on_its_own_trace(
    live: LiveApp, receiver: Receiver, redis_broker: Broker
) -> None:
    """The issue of an import leads to the trace of that import, also when its child was killed."""
    rules = {f"{SHOP}*": {"link": True}}
    env = {"APP_INIT": json.dumps({"tasks": rules})}
    shop = open_shop(live, redis_broker, receiver, env=env)
    for publish in ("fail.delay()", "die.delay('KILL')", "exhausted.delay()"):
        task_id = shop.call(publish)
        (event,) = shop.events(task_id, 1)
        spans = shop.spans(task_id, 4 if "exhausted" in publish else 2)
        runs = [span for span in spans if span.name.startswith("run ")]
        assert trace_of(event) == (runs[-1].trace_id, runs[-1].span_id)
        assert len({span.trace_id for span in runs}) == len(runs)
        assert not {run.trace_id for run in runs} & {
            span.trace_id for span in spans if span not in runs
        }
