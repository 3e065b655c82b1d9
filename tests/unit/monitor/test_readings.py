"""A reading as a table, as JSON, as metrics, and in the log."""

from __future__ import annotations

import json
import logging

import pytest

from taskobs import semconv
from taskobs.celery.queues.readings import OLDEST_AGE, UNACKED, QueueReading, Reading, nothing_known
from taskobs.metrics.export_variables import export_interval
from taskobs.monitor.latest import Latest, as_json
from taskobs.monitor.progress import EVERY, Progress, summary
from taskobs.monitor.series import families_of
from taskobs.monitor.table import duration, table

FULL = QueueReading(name="celery", ready=12, unacked=4, oldest_age=200.0, consumers=1)
EMPTY = QueueReading(name="mail", ready=0, unacked=0, oldest_age=0.0, consumers=0)
PARTLY = QueueReading(name="reports", ready=3, consumers=2)
UNKNOWN = {UNACKED: "the API can't be asked", OLDEST_AGE: "no time"}
READING = Reading(queues=(FULL, EMPTY, PARTLY), unknown=UNKNOWN)


class Clock:
    """A clock that stands until it is set."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_table_has_a_line_for_each_queue() -> None:
    """I read at a glance which queue is long, how long it has waited, and what isn't known."""
    assert table(READING).splitlines() == [
        "queue    ready  unacked    oldest  consumers",
        "celery      12        4  3 m 20 s          1",
        "mail         0        0         -          0",
        "reports      3        ?         ?          2",
        "  unacked ?: the API can't be asked",
        "  oldest ?: no time",
    ]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.0, "0.0 s"), (59.96, "60.0 s"), (61, "1 m 1 s"), (3600, "1 h 0 m"), (90_061, "25 h 1 m")],
)
def test_ages_are_as_people_say_them(seconds: float, text: str) -> None:
    """I read minutes and hours, not thousands of seconds."""
    assert duration(seconds) == text


def test_autoscalers_read_json() -> None:
    """My autoscaler reads numbers, and null for what isn't known."""
    assert json.loads(as_json(READING)) == {
        "queues": [
            {"name": "celery", "ready": 12, "unacked": 4, "oldest_age": 200.0, "consumers": 1},
            {"name": "mail", "ready": 0, "unacked": 0, "oldest_age": 0.0, "consumers": 0},
            {"name": "reports", "ready": 3, "unacked": None, "oldest_age": None, "consumers": 2},
        ]
    }


def test_what_is_not_known_has_no_series() -> None:
    """I chart the queues, and what isn't known is a gap, not a zero."""
    families = families_of(READING, connected=True)
    found = {
        (family.name, labels.get(semconv.CELERY_QUEUE), labels.get(semconv.CELERY_STATE)): value
        for family in families
        for labels, value in family.samples
    }
    messages, age = semconv.METRIC_QUEUE_MESSAGES, semconv.METRIC_QUEUE_OLDEST_AGE
    consumers, connected = semconv.METRIC_QUEUE_CONSUMERS, semconv.METRIC_MONITOR_CONNECTED
    assert found == {
        (messages, "celery", "ready"): 12,
        (messages, "celery", "unacked"): 4,
        (messages, "mail", "ready"): 0,
        (messages, "mail", "unacked"): 0,
        (messages, "reports", "ready"): 3,
        (age, "celery", None): 200.0,
        (age, "mail", None): 0.0,
        (consumers, "celery", None): 1,
        (consumers, "mail", None): 0,
        (consumers, "reports", None): 2,
        (connected, None, None): 1,
    }


def test_an_old_reading_is_shown_to_nobody() -> None:
    """A poll of the broker hangs: soon I read null, and not the number of an hour ago."""
    clock, unread = Clock(), nothing_known(["celery", "mail"])
    latest = Latest(unread, lifetime=30, clock=clock)
    assert (latest.reading, latest.connected) == (unread, False)
    latest.put(READING, unread)
    clock.now += 30
    assert (latest.reading, latest.connected) == (READING, True)
    clock.now += 0.1
    assert (latest.reading, latest.connected) == (unread, False)
    latest.put(READING, unread)
    latest.fail()
    assert (latest.reading, latest.connected) == (unread, False)


def test_the_log_says_how_it_goes(caplog: pytest.LogCaptureFixture) -> None:
    """I read what is found, what can't be known, and when the broker goes and comes back."""
    caplog.set_level(logging.INFO, logger="taskobs")
    clock = Clock()
    progress = Progress("redis at there:6379", clock)

    def said() -> list[str]:
        lines = [record.getMessage().removeprefix("taskobs monitor: ") for record in caplog.records]
        caplog.clear()
        return lines

    progress.read(READING)
    assert said() == [
        summary(READING),
        "unacked is not known: the API can't be asked",
        "oldest_age is not known: no time",
    ]
    clock.now += EVERY / 2
    progress.read(READING)
    assert said() == []
    clock.now += EVERY / 2
    progress.read(READING)
    assert len(said()) == 1
    for _ in range(3):
        progress.failed(OSError("refused"))
        clock.now += EVERY / 2
    assert said() == ["redis at there:6379 can't be asked, trying again: refused"] * 2
    progress.read(READING)
    assert said() == [
        "redis at there:6379 can be asked again, after 1 m 30 s",
        summary(READING),
    ]


def test_a_line_of_the_log_is_bounded() -> None:
    """I have hundreds of queues, and the log names the longest."""
    queues = tuple(QueueReading(name=f"q{number}", ready=number) for number in range(40))
    assert summary(READING) == (
        "celery: 12 ready, 4 unacked, oldest 3 m 20 s, 1 consumers; "
        "reports: 3 ready, 2 consumers; mail: 0 ready, 0 unacked, 0 consumers"
    )
    text = summary(Reading(queues=queues))
    assert text.startswith("q39: 39 ready; q38: 38 ready; ")
    assert text.endswith("; q30: 30 ready; and 30 more queues")
    assert summary(Reading(queues=())) == "no queue is known"
    assert summary(nothing_known(["a"])) == "a: nothing is known"


@pytest.mark.parametrize(
    ("text", "seconds"), [("2000", 2.0), ("", 15.0), ("soon", 15.0), ("-1", 15.0), ("nan", 15.0)]
)
def test_opentelemetrys_interval_counts(
    monkeypatch: pytest.MonkeyPatch, text: str, seconds: float
) -> None:
    """I set OpenTelemetry's interval, in milliseconds; without one, each poll is sent."""
    monkeypatch.setenv("OTEL_METRIC_EXPORT_INTERVAL", text)
    assert export_interval(15.0) == seconds
