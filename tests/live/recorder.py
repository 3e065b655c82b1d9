"""What arrived during a live test: held to its row of the outcome table, and written down.

With ``pytest --outcomes FILE`` each test that passes and names its row adds a line of JSON for
`tools.outcome_table`. The processes of xdist may write to one file.
"""

from __future__ import annotations

import json
import platform
from collections import Counter, defaultdict
from contextlib import contextmanager
from dataclasses import asdict
from importlib.metadata import version
from typing import TYPE_CHECKING, TypeVar

from taskobs import semconv
from taskobs.testing.receiver import Receiver
from taskobs.testing.wire import ReceivedEvent, ReceivedSpan
from tests.live import rows
from tests.live.celery_process import LiveApp
from tests.live.shop import Shop, tags

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping, Sequence
    from pathlib import Path

    import pytest


T = TypeVar("T")
BROKERS = {
    "redis": "Redis",
    "rabbitmq": "RabbitMQ",
    "amqp": "RabbitMQ",
    "polled": "Redis (results in files)",
    "file": "a folder",
    "memory": "memory",
}
PACKAGES = {
    "Celery": "celery",
    "OpenTelemetry": "opentelemetry-sdk",
    "Sentry SDK": "sentry-sdk",
}


def versions() -> dict[str, str]:
    """Give the releases that this process and those it starts run with."""
    found = {name: version(package) for name, package in PACKAGES.items()}
    return {"Python": platform.python_version(), **found}


@contextmanager
def recording(item: pytest.Function, file: Path | None) -> Generator[None]:
    """Hold what arrives during the test to the row that it names; write it to ``file``."""
    marks = list(item.iter_markers("row"))
    receivers = found(item, Receiver, lambda shop: shop.receiver)
    whole = any(mark.kwargs.get("whole", False) for mark in marks)
    before = [] if whole else arrived_at(receivers)
    yield
    seen_before = set(map(id, before))
    arrived = shapes_of([one for one in arrived_at(receivers) if id(one) not in seen_before])
    for mark in marks:
        row, case = rows.case_of(*mark.args)
        hold(row, case, arrived)
        if file is not None:
            column, broker = column_of(item)
            record = rows.Record(row, case, column, broker, item.nodeid, arrived, versions())
            with file.open("a", encoding="utf-8") as lines:
                lines.write(json.dumps(asdict(record)) + "\n")


def found(item: pytest.Function, kind: type[T], of_shop: Callable[[Shop], T]) -> list[T]:
    """Give what the fixtures of a test have of a kind, its shops included."""
    given = list(item.funcargs.values())
    own = [one for one in given if isinstance(one, kind)]
    own += [of_shop(one) for one in given if isinstance(one, Shop)]
    return list({id(one): one for one in own}.values())


def column_of(item: pytest.Function) -> tuple[str, str]:
    """Give the pool of the test's first worker, and the broker's name."""
    started = [one for live in found(item, LiveApp, lambda shop: shop.live) for one in live.started]
    workers = [one for one in started if one[0] in rows.POOLS]
    column, kind = [*workers, *started][0]
    return column if workers else rows.PRODUCER, BROKERS[kind]


def arrived_at(receivers: Sequence[Receiver]) -> list[ReceivedSpan | ReceivedEvent]:
    """Give all that came so far."""
    arrived: list[ReceivedSpan | ReceivedEvent] = []
    for receiver in receivers:
        arrived += [*receiver.spans, *receiver.events]
    return arrived


def shapes_of(arrived: Sequence[ReceivedSpan | ReceivedEvent]) -> dict[str, int]:
    """Count the tasks by what came of each."""
    tasks: defaultdict[str, list[ReceivedSpan | ReceivedEvent]] = defaultdict(list)
    for one in arrived:
        task = task_of(one)
        if task is not None:
            tasks[task].append(one)
    return dict(Counter(shape_of(of_task) for of_task in tasks.values()))


def task_of(one: ReceivedSpan | ReceivedEvent) -> str | None:
    """Give the id of the task that something is about; none for the spans of the test's own."""
    if isinstance(one, ReceivedEvent):
        return str(tags(one).get(semconv.TAG_TASK_ID))
    if not one.name.startswith((semconv.PUBLISH_SPAN, semconv.RUN_SPAN)):
        return None
    # A group or chord is sent without an id of its own; a message that is refused may have none.
    return str(one.attributes.get(semconv.MESSAGING_MESSAGE_ID, one.span_id))


def shape_of(arrived: Sequence[ReceivedSpan | ReceivedEvent]) -> str:
    """Say what came of one task."""
    spans = sorted(
        (one for one in arrived if isinstance(one, ReceivedSpan)), key=lambda span: span.start_ns
    )
    publishes = [span for span in spans if span.name.startswith(semconv.PUBLISH_SPAN)]
    runs = [end_of(span) for span in spans if span.name.startswith(semconv.RUN_SPAN)]
    refused = any(span.status == "error" for span in publishes)
    return rows.shape("ERROR" if refused else len(publishes), runs, len(arrived) - len(spans))


def end_of(run: ReceivedSpan) -> str:
    """Say how a run ended."""
    noted = {"expected": semconv.CELERY_EXPECTED, "redelivered": semconv.CELERY_REDELIVERED}
    beside = [word for word, name in noted.items() if run.attributes.get(name)]
    error = "ERROR " if run.status == "error" else ""
    more = f" ({', '.join(beside)})" if beside else ""
    return f"{error}{run.attributes.get(semconv.CELERY_OUTCOME)}{more}"


def hold(row: str, case: str, arrived: Mapping[str, int]) -> None:
    """Fail if something came that the row does not have, or nothing that it is about."""
    told = rows.CASES[row, case]
    foreign = set(arrived) - {*told.shapes, *told.also}
    assert not foreign, f"the row {row!r} ({case}) is not to have {foreign}"
    assert set(arrived) & set(told.shapes), f"the row {row!r} ({case}) had nothing: {arrived}"
