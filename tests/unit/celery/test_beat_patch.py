"""A tick of beat is known by its entry, whichever scheduler it comes from."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from importlib import import_module
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from celery import Celery, signals
from celery.beat import ScheduleEntry, Scheduler
from celery.schedules import crontab
from celery.schedules import schedule as interval
from celery.utils import time as celery_time
from opentelemetry import baggage, context, trace

from taskobs import semconv
from taskobs.celery.adapter.schedules import schedule_of
from taskobs.model import Schedule
from tests.support.recording import Recorder, attribute, context_of

MONTHS_HAVE_NAMES = pytest.mark.skipif(
    not hasattr(celery_time, "yearmonth"), reason="Celery 5.5 is the first to read names of months"
)


@pytest.fixture(autouse=True)
def empty_queue(app: Celery) -> None:
    """The queue in memory is shared by all apps of this process."""
    with app.connection_for_read() as connection:
        queue: Any = connection.SimpleQueue("celery")
        queue.clear()


@pytest.fixture
def scheduler(app: Celery, spans: Recorder) -> Iterator[Any]:
    """Beat's scheduler, started as beat starts it."""
    del spans
    signals.beat_init.send(sender=None)
    made: Any = Scheduler(app, lazy=True)
    yield made
    made.close()


def entry(app: Celery, name: str = "nightly", due: object = 60.0, **more: Any) -> Any:
    made: Any = ScheduleEntry
    return made(name=name, task="shop.count", schedule=due, app=app, **more)


def headers_sent(app: Celery) -> dict[str, Any]:
    """Take the first message from the queue and give its headers; the others are dropped."""
    with app.connection_for_read() as connection:
        queue: Any = connection.SimpleQueue("celery")
        message: Any = queue.get(timeout=60)
        message.ack()
        queue.clear()
    return dict(message.headers)


def test_a_tick_is_the_root_of_a_trace_whatever_is_current(
    app: Celery, spans: Recorder, scheduler: Any
) -> None:
    """Something in beat has a span open, and each tick is a trace of its own all the same."""
    outer = trace.get_tracer("test").start_span("outer")
    held = baggage.set_baggage("of", "beat", trace.set_span_in_context(outer))
    token = context.attach(held)
    scheduler.apply_async(entry(app), advance=False)
    scheduler.apply_async(entry(app, "hourly"), advance=False)
    context.detach(token)
    ticks = spans.named("publish shop.count")
    assert [tick.parent for tick in ticks] == [None, None]
    assert len({context_of(tick).trace_id for tick in ticks}) == 2
    assert [attribute(tick, semconv.CELERY_SCHEDULE_ENTRY) for tick in ticks] == [
        "nightly",
        "hourly",
    ]
    headers = headers_sent(app)
    assert headers[semconv.HEADER_SCHEDULE] == "nightly"
    assert "baggage" not in headers
    assert headers["traceparent"].split("-")[1] == f"{context_of(ticks[0]).trace_id:032x}"


def test_a_publish_that_is_no_tick_has_no_entry(app: Celery, spans: Recorder) -> None:
    """A task that hands on its message's headers does not pass for a tick."""
    app.send_task("shop.count", headers={semconv.HEADER_SCHEDULE: "nightly"})
    assert attribute(spans.one("publish shop.count"), semconv.CELERY_SCHEDULE_ENTRY) is None
    assert semconv.HEADER_SCHEDULE not in headers_sent(app)


def test_one_tick_is_one_message(app: Celery, spans: Recorder, scheduler: Any) -> None:
    """What a receiver publishes while a tick is sent is not for the entry."""
    sent: list[object] = []

    def also(sender: str, **_: object) -> None:
        if not sent:
            sent.append(sender)
            app.send_task("shop.audit")

    signals.before_task_publish.connect(also, weak=False)
    scheduler.apply_async(entry(app), advance=False)
    signals.before_task_publish.disconnect(also)
    assert attribute(spans.one("publish shop.count"), semconv.CELERY_SCHEDULE_ENTRY) == "nightly"
    assert attribute(spans.one("publish shop.audit"), semconv.CELERY_SCHEDULE_ENTRY) is None


def test_a_name_that_cannot_be_encoded_stops_no_tick(
    app: Celery, spans: Recorder, scheduler: Any
) -> None:
    scheduler.apply_async(entry(app, "n\ud800" + "x" * 300), advance=False)
    told = attribute(spans.one("publish shop.count"), semconv.CELERY_SCHEDULE_ENTRY)
    assert told == "n?" + "x" * 198


def test_the_wrapper_is_taken_away(app: Celery, scheduler: Any) -> None:
    """After `close()` beat is as Celery made it."""
    from taskobs.otel.instrumentor import TaskInstrumentor

    del app, scheduler
    assert hasattr(Scheduler.apply_async, "__wrapped__")
    TaskInstrumentor().uninstrument()
    assert not hasattr(Scheduler.apply_async, "__wrapped__")


def test_celerys_schedules_are_read(app: Celery) -> None:
    app.conf.update(timezone="Europe/Berlin")
    hours: Any = {1, 12, 3}
    told = schedule_of(entry(app, due=crontab(minute="*/5", hour=hours, app=app)))
    assert told == Schedule(entry="nightly", crontab="*/5 1,3,12 * * *", timezone="Europe/Berlin")
    told = schedule_of(entry(app, due=interval(timedelta(seconds=90), app=app)))
    assert (told.crontab, told.seconds) == (None, 90.0)
    assert schedule_of(entry(app, due=30)).seconds == 30.0


@pytest.mark.parametrize(
    ("given", "told"),
    [
        *(({}, "* * * * *"), ({"minute": 7, "hour": "0"}, "7 0 * * *")),
        ({"minute": "*/15", "hour": "8-17/2"}, "*/15 8-17/2 * * *"),
        ({"minute": "5, 7", "day_of_month": "1-7,15"}, "5,7 * 1-7,15 * *"),
        ({"hour": "22-2"}, "* 0,1,2,22,23 * * *"),
        ({"hour": "22-2/2"}, "* 0,2,22 * * *"),
        ({"hour": "5-5/2", "minute": "1_0"}, "10 5 * * *"),
        ({"hour": range(8, 11), "minute": [30, 0]}, "0,30 8,9,10 * * *"),
        ({"minute": {1, 12, 3}, "hour": (4,)}, "1,3,12 4 * * *"),
        ({"day_of_week": "sunday"}, "* * * * 0"),
        ({"day_of_week": "mon,fri"}, "* * * * 1,5"),
        ({"day_of_week": "fri-mon"}, "* * * * 0,1,5,6"),
        pytest.param({"month_of_year": "january,Mar"}, "* * * 1,3 *", marks=MONTHS_HAVE_NAMES),
        ({"month_of_year": "11-2"}, "* * * 1,2,11,12 *"),
    ],
)
def test_a_crontab_is_written_as_cron_reads_it(app: Celery, given: Any, told: str) -> None:
    """What only Celery understands is spelt out; the rest is told as I wrote it."""
    assert schedule_of(entry(app, due=crontab(**given, app=app))).crontab == told


def test_a_schedule_of_somebodys_own_is_no_trouble(app: Celery) -> None:
    class Due:
        def __repr__(self) -> str:
            raise ValueError

    class Entry:
        name, schedule = "odd", Due()

    del app
    assert schedule_of(Entry()) == Schedule(entry="odd")


def test_django_celery_beats_schedules_are_read(app: Celery) -> None:
    pytest.importorskip("django_celery_beat")
    crontabs: Any = import_module("django_celery_beat.tzcrontab")
    moments: Any = import_module("django_celery_beat.clockedschedule")
    tokyo = crontabs.TzAwareCrontab(tz=ZoneInfo("Asia/Tokyo"), app=app)
    told = schedule_of(entry(app, due=tokyo))
    assert (told.crontab, told.timezone) == ("* * * * *", "Asia/Tokyo")
    assert schedule_of(entry(app, due=crontabs.TzAwareCrontab(app=app))).timezone == "UTC"
    once = moments.clocked(datetime.now(timezone.utc), app=app)
    told = schedule_of(entry(app, due=once))
    assert (told.crontab, told.seconds) == (None, None)
