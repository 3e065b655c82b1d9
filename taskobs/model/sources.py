"""What publishes come from, beside a call: an entry of beat's schedule, a group, a chord."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from taskobs.model.messages import ContextValues


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """The entry of beat's schedule that a publish is for, and when it is due.

    With neither ``crontab`` nor ``seconds`` it is due by other rules (the sun, one moment).
    """

    entry: str
    crontab: str | None = None
    """Five fields, as cron has them; but both days must match, where cron asks for either."""
    seconds: float | None = None
    """The interval."""
    timezone: str | None = None
    """The IANA name of the zone that the crontab is in; None when it has none."""
    once: bool = False
    """True for an entry that is disabled after it was due for the first time."""


@dataclass(slots=True)
class Canvas:
    """A group or chord that is about to be published, message by message."""

    kind: str
    """Its Celery task name."""
    headers: Mapping[str, object]
    """The headers that the caller gives to each of its messages."""
    context: ContextValues | None = None
    """The values that it is published with."""
    error: BaseException | None = None
    """What ended it before all of its messages were published."""
