"""Check-ins of beat's entries at Sentry Crons: one for each tick, from the tick to its end.

A check-in is opened when beat publishes, so that waiting in a queue counts towards the
monitor's ``max_runtime``, and closed by the last attempt:

| outcome | check-in |
|---|---|
| succeeded, ignored | ok |
| failed (``throws`` too), lost, unknown, expired, revoked, rejected | error |
| retried, rejected and requeued | stays open: another attempt follows |
| the broker refuses the tick | error |

The monitor's slug is the entry's name. Sentry's monitors know crontabs and whole minutes: an
interval is rounded up to the next minute, with one warning. Entries whose interval is below a
minute, whose crontab restricts the day of the month and the day of the week, or that are due by
other rules (``solar``, ``clocked``, ``rrule``), have no check-ins; one warning says so. A task
that runs eagerly in beat has none either.
"""

from __future__ import annotations

import json
import logging
import math
import re
import time
import uuid
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Final, Protocol, cast

from sentry_sdk.client import BaseClient
from sentry_sdk.crons import capture_checkin

from taskobs import semconv
from taskobs.model import Outcome, Publish, Run, Schedule
from taskobs.observers.base import Observer

_log = logging.getLogger("taskobs")
_NOTHING: Final = nullcontext()
_IDS: Final = uuid.UUID("5b3a7c66-4a4e-4a0c-9a4e-6f1f6f0f2d11")
_UNITS: Final = (("day", 1440), ("hour", 60), ("minute", 1))
_MINUTE: Final = 60
_OK: Final = frozenset({Outcome.SUCCEEDED, Outcome.IGNORED})
_TEXT_CHARS: Final = 400  # a crontab that lists all the values of each field has 356
_MOST_MINUTES: Final = 1_000_000

Monitor = Mapping[str, object]
"""Sentry's ``monitor_config``."""


class Clients(Protocol):
    """Gives the client of this process."""

    def client(self) -> BaseClient | None:
        """Return the client in use, None if there is none."""


@dataclass(frozen=True, slots=True)
class CheckIn:
    """An open check-in, as a message's header contains it."""

    check_in_id: str
    opened: float
    """Seconds since the epoch."""
    monitor: Monitor


class CronObserver(Observer):
    """Opens a check-in for each tick of beat and closes it when the last attempt ends.

    ``exclude`` lists names of entries, or regular expressions that match whole names;
    ``options`` maps an entry's name to further fields of its monitor (``checkin_margin`` and
    ``max_runtime`` in minutes, ``timezone``, ``failure_issue_threshold``,
    ``recovery_threshold``).
    """

    def __init__(
        self,
        pipeline: Clients,
        *,
        exclude: Sequence[str] = (),
        options: Mapping[str, Mapping[str, object]] | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._pipeline = pipeline
        self._names = frozenset(exclude)
        self._patterns = [re.compile(pattern) for pattern in exclude]
        self._options = options or {}
        self._clock = clock
        self._warned: set[str] = set()

    def publish(self, publish: Publish) -> AbstractContextManager[object]:
        """Close the check-in at once if the broker refuses the tick."""
        return _NOTHING if publish.schedule is None else self._tick(publish, publish.schedule)

    def sending(self, publish: Publish) -> None:
        """Open a tick's check-in; a retry's message carries on the one of the earlier attempt."""
        carried = publish.retries.headers.get(semconv.HEADER_CHECK_IN) if publish.retries else None
        publish.headers.pop(semconv.HEADER_CHECK_IN, None)  # a task passed its headers on
        if carried is not None:
            publish.headers[semconv.HEADER_CHECK_IN] = carried
        elif publish.schedule is not None:
            self._open(publish, publish.schedule)

    def run(self, run: Run) -> AbstractContextManager[object]:
        """Close the check-in of the tick that this run is for, unless another attempt follows."""
        text = run.headers.get(semconv.HEADER_CHECK_IN)
        check_in = read(text, run.task_id) if text and run.schedule_entry else None
        return _NOTHING if check_in is None else self._attempt(run, check_in)

    @contextmanager
    def _tick(self, publish: Publish, schedule: Schedule) -> Generator[None]:
        yield
        monitor = self._monitor(schedule) if publish.error is not None else None
        if monitor is not None:
            self._capture(schedule.entry, check_in_id(publish.task_id), "error", monitor)

    def _open(self, publish: Publish, schedule: Schedule) -> None:
        monitor = self._monitor(schedule)
        if monitor is None or self._pipeline.client() is None:
            return
        check_in = CheckIn(check_in_id(publish.task_id), self._clock(), monitor)
        self._capture(schedule.entry, check_in.check_in_id, "in_progress", monitor)
        publish.headers[semconv.HEADER_CHECK_IN] = write(check_in)

    @contextmanager
    def _attempt(self, run: Run, check_in: CheckIn) -> Generator[None]:
        yield
        outcome = run.outcome or Outcome.SUCCEEDED
        entry = run.schedule_entry or ""
        if run.abandoned or run.requeued or outcome is Outcome.RETRIED or self._excluded(entry):
            return
        status = "ok" if outcome in _OK else "error"
        if run.ticks:  # what the run took by the monotonic clock: the other one may have been set
            waited, took = run.began - check_in.opened, time.monotonic() - run.ticks
        else:
            waited, took = self._clock() - check_in.opened, 0.0
        seconds = max(0.0, waited) + took
        self._capture(entry, check_in.check_in_id, status, check_in.monitor, seconds)

    def _capture(
        self,
        entry: str,
        check_in: str,
        status: str,
        monitor: Monitor,
        seconds: float | None = None,
    ) -> None:
        if self._pipeline.client() is not None:
            config = cast("Any", dict(monitor))
            capture_checkin(entry, check_in, status, seconds, config)

    def _excluded(self, entry: str) -> bool:
        return entry in self._names or any(one.fullmatch(entry) for one in self._patterns)

    def _monitor(self, schedule: Schedule) -> Monitor | None:
        """Return Sentry's configuration for the schedule; None for no check-ins."""
        # Sentry would report the next tick of an entry that is due once as missed.
        if schedule.once or self._excluded(schedule.entry):
            return None
        due = self._due(schedule)
        if due is None:
            return None
        zone = {"timezone": schedule.timezone} if schedule.timezone else {}
        return {"schedule": due, **zone, **self._options.get(schedule.entry, {})}

    def _due(self, schedule: Schedule) -> dict[str, object] | None:
        if schedule.crontab is not None:
            return self._crontab(schedule, schedule.crontab)
        seconds = schedule.seconds
        if seconds is None:
            self._refuse(schedule, "Sentry's monitors know crontabs and intervals only")
            return None
        if seconds < _MINUTE:
            self._refuse(schedule, f"an interval of {seconds:g} s is below a minute")
            return None
        minutes = math.ceil(seconds / _MINUTE)
        if minutes * _MINUTE != seconds:
            self._say(
                schedule.entry,
                "taskobs: Sentry expects %r every %d min, as its monitors know whole minutes only",
                minutes,
            )
        unit, size = next((unit, size) for unit, size in _UNITS if minutes % size == 0)
        return {"type": "interval", "value": minutes // size, "unit": unit}

    def _crontab(self, schedule: Schedule, crontab: str) -> dict[str, object] | None:
        _, _, day_of_month, _, day_of_week = crontab.split()
        if "*" not in (day_of_month, day_of_week):
            self._refuse(schedule, "of two day fields Celery asks for both, cron for either")
            return None
        return {"type": "crontab", "value": crontab}

    def _refuse(self, schedule: Schedule, reason: str) -> None:
        words = "taskobs: no check-ins for %r: %s; list it in crons_exclude to silence this"
        self._say(schedule.entry, words, reason)

    def _say(self, entry: str, words: str, more: object) -> None:
        if entry not in self._warned:
            self._warned.add(entry)
            _log.warning(words, entry, more)


def check_in_id(task_id: str) -> str:
    """Return the id of the check-in that belongs to a task; a new one without a task."""
    return uuid.uuid5(_IDS, task_id).hex if task_id else uuid.uuid4().hex


def write(check_in: CheckIn) -> str:
    """Write the header."""
    fields = {"id": check_in.check_in_id, "opened": check_in.opened, "monitor": check_in.monitor}
    return json.dumps(fields, separators=(",", ":"))


def read(text: str, task_id: str) -> CheckIn | None:
    """Read the header of a message, which is untrusted; None unless all of it is valid.

    The id must be the task's own: a task that passes its headers on must not close a check-in.
    """
    try:
        data: object = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(data, dict):
        return None
    fields = cast("dict[str, object]", data)
    opened, monitor = fields.get("opened"), _read_monitor(fields.get("monitor"))
    if fields.get("id") != check_in_id(task_id) or monitor is None:
        return None
    if isinstance(opened, bool) or not isinstance(opened, (int, float)):
        return None
    # JSON reads a number of hundreds of digits as an int, which float() refuses.
    return CheckIn(check_in_id(task_id), float(opened), monitor) if 0 < opened < 1e11 else None  # noqa: PLR2004  # the year 5138


def _read_monitor(data: object) -> Monitor | None:
    if not isinstance(data, dict):
        return None
    fields = cast("dict[str, object]", data)
    due = fields.get("schedule")
    if not isinstance(due, dict):
        return None
    monitor = {name: value for name, value in fields.items() if _plain(name, value)}
    times = cast("dict[str, object]", due)
    schedule = {name: value for name, value in times.items() if _plain(name, value)}
    is_supported = schedule.get("type") in ("crontab", "interval") and "value" in schedule
    return {**monitor, "schedule": schedule} if is_supported else None


_FIELD_TYPES: Final[Mapping[str, tuple[type, ...]]] = {
    "type": (str,),
    "value": (str, int),
    "unit": (str,),
    "timezone": (str,),
    "checkin_margin": (int,),
    "max_runtime": (int,),
    "failure_issue_threshold": (int,),
    "recovery_threshold": (int,),
}


def _plain(name: str, value: object) -> bool:
    if type(value) not in _FIELD_TYPES.get(name, ()):
        return False
    if isinstance(value, int):
        return 0 < value <= _MOST_MINUTES
    return 0 < len(str(value)) <= _TEXT_CHARS
