"""The attributes of OpenTelemetry's own Celery instrumentation, compared with it one by one."""

from __future__ import annotations

import re
from collections.abc import Collection, Generator, Mapping
from contextlib import contextmanager
from datetime import datetime, timezone
from importlib.metadata import version
from typing import Any

import pytest
from celery import Celery
from celery.app.trace import build_tracer
from celery.exceptions import Ignore, Reject
from kombu import Exchange, Queue
from opentelemetry.instrumentation.celery import CeleryInstrumentor
from opentelemetry.metrics import NoOpMeterProvider
from packaging.version import Version

from tests.docs.pages import first_column, section
from tests.support.paths import ROOT
from tests.support.recording import PrivateApp, Recorder, instrumented, tracer_provider

DIFFERENT = {
    "celery.hostname": "the worker's, not the producer's",
    "celery.exchange": "the exchange's name, also where a kombu.Exchange is given",
    "celery.state": "FAILURE for a retry that could not be published",
    "messaging.destination_kind": "left out where it would be the repr of an object",
}
"""What differs on purpose; the page lists it too."""
STOCK_RELEASE = Version(version("opentelemetry-instrumentation-celery"))
Attributes = Mapping[str, object]


@pytest.fixture
def shop() -> Generator[Celery]:
    """Give an app whose tasks the stock instrumentation finds in Celery's registry."""
    app = PrivateApp("shop", broker="memory://", backend="cache+memory://")
    made: Any = Queue
    app.conf.task_queues = (
        made("celery", Exchange("celery"), routing_key="celery"),
        made("topics", Exchange("topics", type="topic"), routing_key="topics.#"),
        made("fans", Exchange("fans", type="fanout")),
    )
    for body in BODIES:
        app.task(name=body.__name__, bind=True, max_retries=3)(body)
    yield app
    app.close()


def fine(_: object) -> None: ...


def fails(_: object) -> None:
    raise ValueError("no")


def ignores(_: object) -> None:
    raise Ignore("not now")


def rejects(_: object) -> None:
    raise Reject("bad", requeue=False)


def retries(self: Any) -> None:
    raise self.retry(countdown=0, exc=ValueError("busy"))


BODIES = (fine, fails, ignores, rejects, retries)
PUBLISHES: dict[str, dict[str, Any]] = {
    "plain": {},
    "queue": {"queue": "topics"},
    "exchange": {"exchange": "topics", "routing_key": "topics.x"},
    "fanout": {"queue": "fans"},
    "routing key": {"routing_key": "celery"},
    "countdown": {"countdown": 10},
    "eta": {"eta": datetime(2030, 1, 1, tzinfo=timezone.utc)},
    "group member": {"group_id": "g-1", "root_id": "r-1", "parent_id": "p-1"},
    "headers": {"headers": {"mine": "1"}},
    "retry": {"retries": 2},
    "expires": {"expires": 60},
    "limits": {"time_limit": 10, "soft_time_limit": 5},
    "priority": {"priority": 3},
    "serializer": {"serializer": "json"},
    "compression": {"compression": "gzip"},
    "reply_to": {"reply_to": "somebody"},
}
ROUTE = {"exchange": "", "routing_key": "celery", "priority": 0, "redelivered": False}
RUNS: dict[str, tuple[str, dict[str, Any]]] = {
    "plain": ("fine", {}),
    "failed": ("fails", {}),
    "ignored": ("ignores", {}),
    "rejected": ("rejects", {}),
    "retried": ("retries", {}),
    "later attempt": ("fine", {"retries": 2}),
    "eta": ("fine", {"eta": "2030-01-01T00:00:00+00:00"}),
    "expires": ("fine", {"expires": "2030-01-01T00:00:00+00:00"}),
    "no limits": ("fine", {"timelimit": [None, None]}),
    "one limit": ("fine", {"timelimit": [10, None]}),
    "both limits": ("fine", {"timelimit": [10, 5]}),
    "compression": ("fine", {"compression": "application/x-gzip"}),
    "reply_to": ("fine", {"reply_to": "somebody", "correlation_id": "id-1"}),
    "topic": (
        "fine",
        {"delivery_info": {**ROUTE, "exchange": "topics", "routing_key": "topics.x"}},
    ),
    "no route": ("fine", {"delivery_info": {}}),
}


@contextmanager
def stock(recorder: Recorder) -> Generator[None]:
    made: Any = CeleryInstrumentor
    instrumentor = made()
    instrumentor.instrument(
        skip_dep_check=True,
        tracer_provider=tracer_provider(recorder),
        meter_provider=NoOpMeterProvider(),
    )
    try:
        yield
    finally:
        instrumentor.uninstrument()


def compare(theirs: Recorder, ours: Recorder, lost: Collection[str] = ()) -> None:
    """Hold ours to have all that theirs has, value by value, and what theirs has ``lost``."""
    [their_span], [our_span] = theirs.spans[:1], ours.spans[:1]
    expected = dict(their_span.attributes or {})
    found = dict(our_span.attributes or {})
    for name in [*expected]:
        if name == "messaging.destination_kind" and expected[name] not in {"queue", "topic"}:
            continue
        if name not in {"celery.exchange", "celery.hostname"}:
            assert found.get(name) == expected[name], name
        else:
            assert name in found, name
    ours_alone = {name for name in found if name in STOCK and name not in expected}
    assert ours_alone - {"celery.exchange"} == {*lost}


STOCK = {
    *("celery.action", "celery.compression", "celery.countdown", "celery.delivery_info"),
    *("celery.exchange", "celery.retries", "celery.serializer", "celery.state"),
    *("celery.timelimit", "messaging.destination", "messaging.destination_kind"),
    *("celery.reply_to", "messaging.conversation_id"),
}


@pytest.mark.parametrize("kind", PUBLISHES)
def test_a_publish_has_what_stock_gives_it(shop: Celery, kind: str) -> None:
    """I use dashboards that were made for the stock instrumentation: all they need is there."""
    theirs, ours = Recorder(), Recorder()
    for recorder, record in ((theirs, stock), (ours, instrumented)):
        with record(recorder):
            shop.tasks["fine"].apply_async(task_id="id-1", **PUBLISHES[kind])
    compare(theirs, ours)


@pytest.mark.parametrize("kind", RUNS)
def test_a_run_has_what_stock_gives_it(shop: Celery, kind: str) -> None:
    """I use dashboards that were made for the stock instrumentation: all they need is there."""
    name, fields = RUNS[kind]
    message = {"id": "id-1", "task": name, "delivery_info": ROUTE, "is_eager": False, **fields}
    message |= {"hostname": "celery@w1", "origin": "gen1@web"}
    theirs, ours = Recorder(), Recorder()
    for recorder, record in ((theirs, stock), (ours, instrumented)):
        trace_task: Any = build_tracer(name, shop.tasks[name], app=shop)
        with record(recorder):
            trace_task("id-1", (), {}, dict(message))
    theirs_run = Recorder()
    for span in theirs.spans:
        if span.name.startswith("run/"):
            theirs_run.on_end(span)
    ours_run = Recorder()
    for span in ours.spans:
        if span.name.startswith("run "):
            ours_run.on_end(span)
    # Before 0.63b0 it makes a list of a number and a text of these, which is no attribute.
    loses = kind == "one limit" and Version("0.63b0") > STOCK_RELEASE
    compare(theirs_run, ours_run, lost={"celery.timelimit"} if loses else ())


def test_what_differs_is_on_the_page() -> None:
    """I compare with the stock instrumentation, and the page has told me what differs, and why."""
    page = section(ROOT / "docs/recording.md", "Stock attributes")
    listed = re.findall(r"^\* `([\w.]+)`", page, re.MULTILINE)
    assert listed == sorted(DIFFERENT)
    assert "celery.hostname" not in first_column(page)
