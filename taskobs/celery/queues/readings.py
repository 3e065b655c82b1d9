"""The records of one poll of the queues of a broker."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

READY: Final[str] = "ready"
UNACKED: Final[str] = "unacked"
OLDEST_AGE: Final[str] = "oldest_age"
CONSUMERS: Final[str] = "consumers"
FIELDS: Final[tuple[str, ...]] = (READY, UNACKED, OLDEST_AGE, CONSUMERS)


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueReading:
    """What a queue was found to hold; None is what can't be known."""

    name: str
    ready: int | None = None
    """Messages that wait for a worker."""
    unacked: int | None = None
    """Messages that workers have taken, and not acknowledged: they run, or wait in the worker."""
    oldest_age: float | None = None
    """Seconds since the publish of the oldest message that is ready; 0 if none is."""
    consumers: int | None = None
    """Workers that consume from it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """All queues, and why something of them is not known."""

    queues: tuple[QueueReading, ...]
    unknown: Mapping[str, str] = field(default_factory=dict[str, str])
    """Why a field is None, by ``ready`` and the like; for one queue or for all."""


def nothing_known(names: Iterable[str]) -> Reading:
    """Return the reading of a broker that can't be reached."""
    return Reading(queues=tuple(QueueReading(name=name) for name in names))
