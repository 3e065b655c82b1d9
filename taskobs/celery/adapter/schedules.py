"""Entries of beat's schedule as records."""

from __future__ import annotations

import re
from datetime import timedelta, timezone
from typing import Any, Final

from taskobs.celery import _compat
from taskobs.celery._types import Entry
from taskobs.model import Schedule

_PLAIN_CRON: Final = re.compile(r"\*(?:/[0-9]+)?|[0-9]+|([0-9]+)-([0-9]+)(?:/[0-9]+)?")
ENTRY_CHARS: Final = 200
"""What is kept of an entry's name."""


def schedule_of(entry: Entry) -> Schedule:
    """Make the record of a schedule's entry, of whichever scheduler."""
    due: Any = entry.schedule
    interval = getattr(due, "run_every", None)
    zone = getattr(due, "tz", None)
    # Names come from people and databases: one that can't be encoded must not stop a publish.
    name = str(entry.name).encode(errors="replace").decode()
    return Schedule(
        entry=name[:ENTRY_CHARS],
        crontab=_crontab(due),
        seconds=interval.total_seconds() if isinstance(interval, timedelta) else None,
        timezone=getattr(zone, "key", None) or ("UTC" if zone is timezone.utc else None),
        # django-celery-beat's; its clocked schedules are for one moment anyway.
        once=bool(getattr(getattr(entry, "model", None), "one_off", False)),
    )


def _crontab(due: Any) -> str | None:
    fields = _compat.crontab_fields(due)
    return None if fields is None else " ".join(_cron_field(*field) for field in fields)


def _cron_field(written: Any, values: Any) -> str:
    """Return a field as it was written, or, where cron may read it otherwise, all its values.

    Celery also takes names of days and months in full, ranges that wrap around, and collections.
    """
    text = "".join(str(written).split())
    if all(map(_is_plain_cron, text.split(","))):
        return text
    return ",".join(map(str, sorted(values)))


def _is_plain_cron(part: str) -> bool:
    found = _PLAIN_CRON.fullmatch(part)
    return found is not None and (found[1] is None or int(found[1]) < int(found[2]))
