"""What the sums in the counters' memory are of: the keys that its processes write there."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final, NamedTuple, cast

from taskobs.metrics.families import Kind, LabelValue
from taskobs.metrics.histogram import OTHER
from taskobs.protocol.frames import FrameError, pack, unpack
from taskobs.protocol.sanitize import UNEXPECTED, sanitize

Key = tuple[Any, ...]
"""What msgpack knows, with `PUBLISH` or `MEASURED` first."""
PUBLISH: Final = "publish"
MEASURED: Final = "measured"
OVERFLOW: Final = "otel.metric.overflow"
"""The attribute of what is beyond a limit, as OpenTelemetry's specification names it."""
_KINDS: Final[Mapping[str, Kind]] = {
    "counter": "counter",
    "updown": "updown",
    "histogram": "histogram",
}


class Measured(NamedTuple):
    """One series of what tasks measure themselves."""

    kind: Kind
    scope: str
    scope_version: str
    name: str
    unit: str
    meaning: str
    bounds: tuple[float, ...]
    """Of the buckets of a histogram, but for the last."""
    labels: tuple[tuple[str, LabelValue], ...]
    scope_schema: str = ""
    reader: int = 0
    """The number of the app's metric reader that it is for; 0 if it is for the worker's own."""
    whole: bool = False
    """Whether it was an int that was measured first."""

    @property
    def overflow(self) -> Measured:
        """The series of the same instrument for what is beyond a limit."""
        return self._replace(labels=((OVERFLOW, True),))


CounterKey = Measured | tuple[str, str, str]
"""A series, or the task, the queue and the error of a publish."""


def publish_key(task: str, queue: str, error: str) -> Key:
    """Return the key of the publishes of a task."""
    return PUBLISH, task, queue, error


def measured_key(series: Measured) -> Key:
    """Return the key of a series."""
    return MEASURED, *series


def overflow_of(key: Key) -> Key:
    """Return the key to count under where there is no room for this one."""
    if key[0] == MEASURED:
        return measured_key(Measured(*key[1:]).overflow)
    return publish_key(OTHER, OTHER, "")


def packed(key: Key) -> bytes:
    """Return a key as it is written."""
    try:
        return pack(key)
    except UNEXPECTED:  # text that can't be encoded
        return pack(sanitize(key))


def without_room(written: bytes) -> bytes:
    """Return ``overflow_of`` of a key as it is written; itself if it is none."""
    found = _unpacked(written)
    return written if found is None else packed(overflow_of(found))


@lru_cache(maxsize=8_192)  # the same ones are read again and again
def read_key(written: bytes) -> CounterKey | None:
    """Return what a key says; None for what is none."""
    found = _unpacked(written)
    if found is None:
        return None
    if found[0] == MEASURED:
        return Measured(*found[1:])
    return cast("tuple[str, str, str]", found[1:])


def _unpacked(written: bytes) -> Key | None:
    try:
        first, *rest = unpack(written)
        if first == PUBLISH:
            task, queue, error = map(str, rest)
            return publish_key(task, queue, error)
        kind, scope, version, name, unit, meaning, bounds, labels, schema, reader, whole = rest
        return measured_key(
            Measured(
                *(_KINDS[kind], str(scope), str(version), str(name), str(unit), str(meaning)),
                tuple(map(float, bounds)),
                tuple((str(label), value) for label, value in labels),
                *(str(schema), int(reader), bool(whole)),
            )
        )
    except (FrameError, TypeError, ValueError, KeyError):
        return None
