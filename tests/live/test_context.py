"""A hundred runs for as many tenants in each pool: what is said of one says nothing of another."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from typing import TYPE_CHECKING

import pytest
from kombu import Connection

from taskobs import semconv
from taskobs.testing.receiver import Receiver
from tests.live.celery_process import Broker, LiveApp
from tests.live.process import LIMIT
from tests.live.shop import QUICK, Shop, tags

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from taskobs.testing.wire import ReceivedEvent, ReceivedSpan
    from tests.live import services

TENANTS = "tests.live.apps.tenants"
SIZE = 100
NAMES = [f"tenant-{number:03}" for number in range(SIZE)]
KEYS = ("tenant", "user_id", "order", "part")
HOSTILE: Mapping[str, object] = {
    "no JSON": "{",
    "no dict": '["tenant"]',
    "nested": '{"tenant": {"a": [1]}, "user_id": [1]}',
    "deep": "[" * 2000,
    "NaN": '{"tenant": NaN, "user_id": Infinity}',
    "long": json.dumps({"tenant": "x" * 1_000_000}),
    "no text": {"tenant": "x"},
    "bytes": b"\xff\xfe",
    "other keys": '{"password": "x", "task_id": "x", "celery.queue": "x"}',
}
FORMAT = "VALUES %(task_id)s|%(tenant)s|%(user_id)s|%(order)s|%(part)s|%(message)s"
LINE = re.compile(r"VALUES ([\w-]*)\|(.*)\|seen \S*$", re.MULTILINE)
CONFIG = {
    "worker_log_format": FORMAT,
    "worker_task_log_format": FORMAT,
    "worker_prefetch_multiplier": 2,
}
ENV = {
    **QUICK,
    "APP_INIT": json.dumps({"context_keys": KEYS}),
    "APP_CONFIG": json.dumps(CONFIG),
}
PUBLISH = f"""
import taskobs
for number, name in enumerate({NAMES!r}):
    with taskobs.context(tenant=name, user_id=number, debug=True):
        app.attempts.apply_async(task_id=name)
"""
RUNS = 3 * SIZE
"""Two attempts for each tenant, and the task that follows the first."""


def send_hostile(broker: Broker) -> list[str]:
    """Publish as a program does that knows nothing of taskobs, and means no good."""
    ids = [f"hostile-{number}" for number in range(len(HOSTILE))]
    with Connection(broker.url) as connection:
        producer = connection.Producer()
        for task_id, given in zip(ids, HOSTILE.values(), strict=True):
            headers = {"id": task_id, "task": f"{TENANTS}.fails", "root_id": task_id}
            producer.publish(
                [[], {}, {}],
                serializer="json",
                headers={**headers, semconv.HEADER_CONTEXT: given},
                routing_key="celery",
                correlation_id=task_id,
            )
    return ids


@pytest.mark.parametrize("pool", ["prefork", "solo", "threads", "gevent"])
def test_the_values_of_a_hundred_runs_are_not_mixed(
    pool: str, redis_server: services.Redis, tmp_path: Path
) -> None:
    """I publish for a hundred tenants: each span, event and line has the values of its own run."""
    url = redis_server.url()
    size = SIZE if pool in ("threads", "gevent") else 1
    env = {**ENV, "CROWD": str(size)}
    with Receiver() as receiver, LiveApp(tmp_path, receiver.endpoint, receiver.dsn) as live:
        broker = Broker("redis", url, url)
        worker = live.worker(broker, pool=pool, concurrency=max(2, size), app=TENANTS, env=env)
        producer = live.producer(broker, app=TENANTS, env=ENV)
        producer.run(PUBLISH)
        # Not until their results are there: Celery stores a RETRY after it has published it, so
        # the second attempt's FAILURE may be overwritten, and `get` waits for ever.
        assert receiver.wait_for(lambda found: number_of_runs(found.spans) >= RUNS, 2 * LIMIT)
        hostile = send_hostile(broker)
        for task_id in hostile:
            shop = Shop(live, broker, receiver, worker, producer)
            shop.events(task_id, 1)
        assert producer.close() == 0
        assert worker.stop() == 0
    holds_on_spans(receiver.spans)
    holds_on_events(receiver.events)
    holds_on_lines(worker.log)
    nobody_is_named(hostile, receiver)


def sent_with(number: int) -> dict[str, object]:
    return {"tenant": NAMES[number], "user_id": number}


def ordered(number: int) -> dict[str, object]:
    return {**sent_with(number), "order": f"order-of-{NAMES[number]}"}


def parted(number: int) -> dict[str, object]:
    return {**ordered(number), "part": f"part-of-{NAMES[number]}"}


def number_of_runs(spans: Iterable[ReceivedSpan]) -> int:
    return sum(span.name.startswith("run ") for span in spans)


def values_of(span: ReceivedSpan) -> dict[str, object]:
    return {key: span.attributes[key] for key in KEYS if key in span.attributes}


def holds_on_spans(spans: Iterable[ReceivedSpan]) -> None:
    """See that publishes and runs of both attempts, and of what follows, have their values."""
    by_task: dict[str, dict[tuple[str, object], ReceivedSpan]] = defaultdict(dict)
    for span in spans:
        task_id = str(span.attributes.get(semconv.CELERY_TASK_ID))
        attempt = span.attributes.get(semconv.CELERY_ATTEMPT)
        by_task[task_id][span.name.partition(" ")[0], attempt] = span
    for number, name in enumerate(NAMES):
        of_task = {kind: values_of(span) for kind, span in by_task[name].items()}
        first, again = sent_with(number), ordered(number)
        assert of_task == {
            ("publish", 1): first,
            ("run", 1): again,  # it has set the order itself
            ("publish", 2): again,
            ("run", 2): again,
        }
        follows = {kind: values_of(span) for kind, span in by_task[f"follows-{name}"].items()}
        assert follows == {("publish", 1): parted(number), ("run", 1): parted(number)}
        with_debug = [kind for kind, span in by_task[name].items() if "debug" in span.attributes]
        assert with_debug == [("publish", 1)]  # no key that is taken from a message


def holds_on_events(events: Iterable[ReceivedEvent]) -> None:
    """See that the failure of each has its values as tags, and its user."""
    found = {tags(event)[semconv.TAG_TASK_ID]: event for event in events}
    for number, name in enumerate(NAMES):
        event, wanted = found[name], ordered(number)
        shown = {key: tags(event)[key] for key in KEYS if key in tags(event)}
        assert shown == {key: str(value) for key, value in wanted.items()}
        assert event.data["user"] == {"id": str(number)}


def holds_on_lines(log: str) -> None:
    """See that each line, of the app's logger and of the task's, has the values of its run."""
    lines: dict[str, list[str]] = defaultdict(list)
    for task_id, values in LINE.findall(log):
        lines[task_id].append(values)
    for number, name in enumerate(NAMES):
        steps = (sent_with(number), parted(number), ordered(number))
        wanted = ["|".join(str(step.get(key, "")) for key in KEYS) for step in steps]
        assert lines[name] == [line for line in wanted for _ in range(2)]


def nobody_is_named(hostile: list[str], receiver: Receiver) -> None:
    """See that runs of hostile messages have no values: no sender's, and no earlier run's."""
    spans = [
        span for span in receiver.spans if span.attributes.get(semconv.CELERY_TASK_ID) in hostile
    ]
    assert len(spans) == len(hostile)
    assert [values_of(span) for span in spans] == [{}] * len(hostile)
    events = [event for event in receiver.events if tags(event)[semconv.TAG_TASK_ID] in hostile]
    assert [tags(event).keys() & {*KEYS} for event in events] == [set()] * len(hostile)
    assert not any(event.data.get("user") for event in events)
