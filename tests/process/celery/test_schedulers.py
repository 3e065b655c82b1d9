"""Entries of other schedulers, which are imported in processes of their own."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.support.paths import ROOT


def run_alone(*arguments: str) -> str:
    """Run Python in a process of its own."""
    done = subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_redbeats_entries_are_read() -> None:
    """Redbeat keeps its schedule in Redis, and has rules of its own."""
    pytest.importorskip("redbeat")
    code = """
from celery import Celery
from celery.schedules import crontab, schedule
from redbeat import RedBeatSchedulerEntry
from redbeat.schedulers import RedBeatScheduler
from redbeat.schedules import rrule
from celery.beat import Scheduler
from taskobs.celery.adapter.schedules import schedule_of

assert RedBeatScheduler.apply_async is Scheduler.apply_async
app = Celery(broker="redis://127.0.0.1:9/0", timezone="Asia/Tokyo")
for due in (crontab(minute="7", app=app), schedule(120, app=app), rrule("DAILY", app=app)):
    entry = RedBeatSchedulerEntry("nightly", "shop.count", due, app=app)
    told = schedule_of(entry)
    print(told.entry, told.crontab, told.seconds)
"""
    assert run_alone("-c", code).splitlines() == [
        "nightly 7 * * * * None",
        "nightly None 120.0",
        "nightly None None",
    ]


def test_django_celery_beats_entries_are_sent_and_read() -> None:
    """My schedule is in Django's database, and its ticks are seen as any other's."""
    pytest.importorskip("django_celery_beat")
    told = json.loads(run_alone("-m", "tests.process.celery.django_beat_script"))
    assert told["schedules"] == {
        "stock: hourly": [None, 7200.0, "UTC"],
        "stock: daily": ["*/5 * * * *", None, "Asia/Tokyo"],
    }
    assert sorted(told["spans"]) == [
        ["publish shop.count", "stock: daily"],
        ["publish shop.count", "stock: hourly"],
    ]
