"""Check-ins: opened by a tick, closed by the end of its last attempt, whatever is in the header."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator
from typing import Any

import pytest
import sentry_sdk
from sentry_sdk.client import BaseClient
from sentry_sdk.envelope import Envelope
from sentry_sdk.transport import Transport

from taskobs import semconv
from taskobs.model import Outcome, Publish, Run, Schedule
from taskobs.observers.crons import CronObserver, check_in_id, read, write
from tests.support.sentry import DSN, make_run

EVERY_HOUR = Schedule(entry="hourly", seconds=3600.0, timezone="UTC")
MONITOR = {"schedule": {"type": "interval", "value": 1, "unit": "hour"}, "timezone": "UTC"}


class CheckIns(Transport):
    """Keeps the check-ins that it is given."""

    def __init__(self) -> None:
        super().__init__({"dsn": DSN})
        self.kept: list[dict[str, Any]] = []

    def capture_envelope(self, envelope: Envelope) -> None:
        for item in envelope.items:
            if item.type == "check_in" and item.payload.json is not None:
                self.kept.append(dict(item.payload.json))

    @property
    def states(self) -> list[str]:
        return [str(one["status"]) for one in self.kept]


class Current:
    """Knows Sentry's current client."""

    def client(self) -> BaseClient | None:
        client = sentry_sdk.get_client()
        return client if client.is_active() else None


@pytest.fixture
def sent() -> Iterator[CheckIns]:
    """The check-ins that Sentry is given."""
    kept = CheckIns()
    sentry_sdk.init(dsn=DSN, transport=kept, default_integrations=False)
    yield kept
    sentry_sdk.get_client().close(timeout=0)
    sentry_sdk.get_global_scope().set_client(None)


def tick(
    observer: CronObserver,
    schedule: Schedule | None = EVERY_HOUR,
    *,
    error: BaseException | None = None,
    **records: Any,
) -> Publish:
    """Publish as beat does."""
    publish = Publish(task="shop.count", name="shop.count", schedule=schedule, **records)
    with observer.publish(publish):
        publish.task_id = "id-1"
        observer.sending(publish)
        publish.error = error
    return publish


def attempt(observer: CronObserver, publish: Publish, outcome: Outcome, **records: Any) -> Run:
    """Run what was published, to that outcome."""
    entry = publish.schedule.entry if publish.schedule else "hourly"

    headers = {name: str(value) for name, value in publish.headers.items()}
    run = make_run(task_id=publish.task_id, headers=headers, schedule_entry=entry, **records)
    with observer.run(run):
        run.outcome = outcome
    return run


def test_a_tick_and_its_run_are_one_check_in(sent: CheckIns) -> None:
    """My monitor sees the job begin and end, and how long it took since it was due."""
    times = iter([1000.0, 1012.5])
    observer = CronObserver(Current(), clock=lambda: next(times))
    attempt(observer, tick(observer), Outcome.SUCCEEDED)
    opened, closed = sent.kept
    assert (opened["status"], closed["status"]) == ("in_progress", "ok")
    assert opened["check_in_id"] == closed["check_in_id"] == check_in_id("id-1")
    assert opened["monitor_slug"] == closed["monitor_slug"] == "hourly"
    assert opened["monitor_config"] == closed["monitor_config"] == MONITOR
    assert closed["duration"] == 12.5


@pytest.mark.parametrize("days", [-3, 3])
def test_a_clock_that_is_set_makes_no_check_in_of_days(sent: CheckIns, days: int) -> None:
    """The time server sets my clock while the job runs: it took as long as it took."""
    times = iter([1000.0, 1000.0 + days * 86_400])
    observer = CronObserver(Current(), clock=lambda: next(times))
    publish = tick(observer)
    headers = {name: str(value) for name, value in publish.headers.items()}
    run = make_run(task_id="id-1", headers=headers, schedule_entry="hourly", began=1002.0)
    run.ticks = time.monotonic() - 5.0
    with observer.run(run):
        run.outcome = Outcome.SUCCEEDED
    assert 7.0 <= sent.kept[-1]["duration"] < 60.0


def test_an_entry_that_is_due_once_has_no_monitor(sent: CheckIns) -> None:
    """My one-off entry makes no monitor that would miss its next check-in for ever."""
    observer = CronObserver(Current())
    once = Schedule(entry="once", seconds=3600.0, once=True)
    attempt(observer, tick(observer, once), Outcome.SUCCEEDED)
    tick(observer, once, error=OSError())
    assert sent.kept == []


@pytest.mark.parametrize(
    ("outcome", "records", "status"),
    [
        (Outcome.SUCCEEDED, {}, ["ok"]),
        (Outcome.IGNORED, {}, ["ok"]),
        (Outcome.FAILED, {}, ["error"]),
        (Outcome.FAILED, {"expected": True}, ["error"]),
        (Outcome.LOST, {}, ["error"]),
        (Outcome.LOST, {"abandoned": True}, []),
        (Outcome.UNKNOWN, {}, ["error"]),
        (Outcome.EXPIRED, {}, ["error"]),
        (Outcome.REVOKED, {}, ["error"]),
        (Outcome.REJECTED, {}, ["error"]),
        (Outcome.REJECTED, {"requeued": True}, []),
        (Outcome.RETRIED, {}, []),
    ],
)
def test_every_outcome_closes_it_or_leaves_it_open(
    sent: CheckIns, outcome: Outcome, records: dict[str, Any], status: list[str]
) -> None:
    """No tick stays open for ever, and none turns red while an attempt is still to come."""
    observer = CronObserver(Current())
    attempt(observer, tick(observer), outcome, **records)
    assert sent.states == ["in_progress", *status]


def test_a_retry_closes_the_check_in_of_its_tick(sent: CheckIns) -> None:
    """The attempt that a task ends with tells, not the one that it began with."""
    observer = CronObserver(Current())
    first = attempt(observer, tick(observer), Outcome.RETRIED)
    again = tick(observer, None, retries=first)
    attempt(observer, again, Outcome.SUCCEEDED)
    assert sent.states == ["in_progress", "ok"]


def test_a_task_that_hands_its_headers_on_hands_on_no_check_in(sent: CheckIns) -> None:
    """My task calls another with its own headers: that one's failure isn't the tick's."""
    observer = CronObserver(Current())
    publish = tick(observer)
    copied = {semconv.HEADER_CHECK_IN: publish.headers[semconv.HEADER_CHECK_IN]}
    other = tick(observer, None, headers=dict(copied))
    assert semconv.HEADER_CHECK_IN not in other.headers
    stolen = Publish(task="shop.other", task_id="id-2", headers=copied)
    attempt(observer, stolen, Outcome.FAILED)
    assert sent.states == ["in_progress"]


def test_a_tick_that_the_broker_refuses_is_an_error(sent: CheckIns) -> None:
    """The broker was down at night, and the monitor says that the job didn't run."""
    observer = CronObserver(Current())
    tick(observer, error=ConnectionRefusedError())
    assert sent.states == ["in_progress", "error"]
    assert len({one["check_in_id"] for one in sent.kept}) == 1


def test_a_tick_that_never_got_to_the_broker_is_an_error(sent: CheckIns) -> None:
    """Refused before the message was routed, it has no id of a task, and an id of its own."""
    observer = CronObserver(Current())
    publish = Publish(task="shop.count", schedule=EVERY_HOUR)
    with observer.publish(publish):
        publish.error = ConnectionRefusedError()
    assert sent.states == ["error"]
    assert sent.kept[0]["monitor_config"] == MONITOR


@pytest.mark.parametrize("exclude", [["hourly"], ["hour.*"], ["x", "h[a-z]+y"]])
def test_excluded_entries_have_no_check_ins(sent: CheckIns, exclude: list[str]) -> None:
    observer = CronObserver(Current(), exclude=exclude)
    publish = tick(observer)
    assert semconv.HEADER_CHECK_IN not in publish.headers
    attempt(observer, tick(CronObserver(Current())), Outcome.SUCCEEDED)
    assert sent.states == ["in_progress"]  # of the beat that excludes nothing


def test_a_pattern_matches_whole_names(sent: CheckIns) -> None:
    tick(CronObserver(Current(), exclude=["hour"]))
    assert sent.states == ["in_progress"]


def test_a_name_with_a_patterns_characters_is_a_name_too(sent: CheckIns) -> None:
    entry = Schedule(entry="count (nightly)", crontab="0 3 * * *")
    tick(CronObserver(Current(), exclude=["count (nightly)"]), entry)
    assert sent.states == []


def test_options_reach_the_monitor(sent: CheckIns) -> None:
    """I give the job ten minutes of grace and half an hour, and another time zone."""
    options = {"checkin_margin": 10, "max_runtime": 30, "timezone": "Asia/Tokyo"}
    observer = CronObserver(Current(), options={"hourly": options, "other": {"max_runtime": 1}})
    attempt(observer, tick(observer), Outcome.SUCCEEDED)
    assert [one["monitor_config"] for one in sent.kept] == [{**MONITOR, **options}] * 2


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ({"crontab": "*/5 1,3 * * mon"}, {"type": "crontab", "value": "*/5 1,3 * * mon"}),
        ({"crontab": "0 0 1-7 * *"}, {"type": "crontab", "value": "0 0 1-7 * *"}),
        ({"seconds": 60.0}, {"type": "interval", "value": 1, "unit": "minute"}),
        ({"seconds": 5400.0}, {"type": "interval", "value": 90, "unit": "minute"}),
        ({"seconds": 7200.0}, {"type": "interval", "value": 2, "unit": "hour"}),
        ({"seconds": 172800.0}, {"type": "interval", "value": 2, "unit": "day"}),
    ],
)
def test_sentry_gets_the_schedule(
    sent: CheckIns, schedule: dict[str, Any], expected: dict[str, object]
) -> None:
    tick(CronObserver(Current()), Schedule(entry="x", **schedule))
    assert sent.kept[0]["monitor_config"] == {"schedule": expected}


def test_part_of_a_minute_is_rounded_up_and_said_once(
    sent: CheckIns, caplog: pytest.LogCaptureFixture
) -> None:
    observer = CronObserver(Current())
    with caplog.at_level(logging.WARNING, "taskobs"):
        for _ in range(3):
            tick(observer, Schedule(entry="x", seconds=90.0))
    assert sent.kept[0]["monitor_config"]["schedule"]["value"] == 2
    assert [record.getMessage() for record in caplog.records] == [
        "taskobs: Sentry expects 'x' every 2 min, as its monitors know whole minutes only"
    ]


@pytest.mark.parametrize(
    ("schedule", "why"),
    [
        ({"seconds": 10.0}, "10 s is below a minute"),
        ({}, "crontabs and intervals only"),
        ({"crontab": "0 0 1-7 * 1"}, "Celery asks for both, cron for either"),
        ({"crontab": "0 0 */2 * 1"}, "Celery asks for both, cron for either"),
    ],
)
def test_what_monitors_do_not_know_has_no_check_ins(
    sent: CheckIns, caplog: pytest.LogCaptureFixture, schedule: dict[str, Any], why: str
) -> None:
    observer = CronObserver(Current())
    with caplog.at_level(logging.WARNING, "taskobs"):
        for _ in range(3):
            tick(observer, Schedule(entry="x", **schedule), error=OSError())
    assert sent.kept == []
    [record] = caplog.records
    assert why in record.getMessage()
    assert "crons_exclude" in record.getMessage()


def test_nothing_is_sent_without_sentry() -> None:
    observer = CronObserver(Current())
    publish = tick(observer)
    assert semconv.HEADER_CHECK_IN not in publish.headers


def test_the_longest_crontab_has_check_ins(sent: CheckIns) -> None:
    """A tick of a crontab that lists all values of each field is closed as any other."""
    ranges = (range(60), range(24), range(1, 32), range(1, 13), range(7))
    fields = [",".join(map(str, values)) for values in ranges]
    for day_of_month, day_of_week in ((fields[2], "*"), ("*", fields[4])):
        crontab = " ".join([*fields[:2], day_of_month, fields[3], day_of_week])
        observer = CronObserver(Current())
        tell = tick(observer, Schedule(entry="x", crontab=crontab))
        attempt(observer, tell, Outcome.SUCCEEDED)
    assert sent.states == ["in_progress", "ok"] * 2


def header(**changes: object) -> str:
    told = {"id": check_in_id("id-1"), "opened": 1000.0, "monitor": MONITOR}
    return json.dumps({**told, **changes})


def test_a_header_is_read_as_it_was_written() -> None:
    check_in = read(header(), "id-1")
    assert check_in is not None
    assert read(write(check_in), "id-1") == check_in


STRANGE = [
    "",
    "{",
    "[]",
    "null",
    "[" * 8000,
    header(id="0" * 32),
    header(id=None),
    header(opened="now"),
    header(opened=float("nan")),
    header(opened=float("inf")),
    header(opened=True),
    header(opened=-1),
    header(opened=10**400),
    header(monitor=None),
    header(monitor={}),
    header(monitor={"schedule": []}),
    header(monitor={"schedule": {"type": "crontab"}}),
    header(monitor={"schedule": {"type": "sometimes", "value": 3}}),
    header(monitor={"schedule": {"type": "crontab", "value": "x" * 401}}),
    header(monitor={"schedule": {"type": "interval", "value": -3}}),
    header(monitor={"schedule": {"type": ["crontab"], "value": 3}}),
]


@pytest.mark.parametrize("text", STRANGE, ids=map(str, range(len(STRANGE))))
def test_a_header_of_another_sender_is_ignored(sent: CheckIns, text: str) -> None:
    """Whatever somebody writes into my queue, my workers run and tell Sentry nothing wrong."""
    assert read(text, "id-1") is None
    publish = Publish(task="shop.count", task_id="id-1", headers={semconv.HEADER_CHECK_IN: text})
    attempt(CronObserver(Current()), publish, Outcome.FAILED)
    assert sent.kept == []


def test_only_what_a_monitor_has_is_taken_from_a_header() -> None:
    strange = {"alerts": True, "max_runtime": "3", "checkin_margin": True, "schedule": None}
    schedule = {"type": "interval", "value": 2, "unit": "hour", "more": {"of": "it"}}
    monitor = {**strange, "schedule": schedule, "timezone": "UTC", "recovery_threshold": 2}
    check_in = read(header(monitor=monitor), "id-1")
    assert check_in is not None
    assert check_in.monitor == {
        "schedule": {"type": "interval", "value": 2, "unit": "hour"},
        "timezone": "UTC",
        "recovery_threshold": 2,
    }
