"""A reading as a table for the terminal."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from taskobs.celery.queues.readings import FIELDS, QueueReading, Reading

_HEADS: Final = ("queue", "ready", "unacked", "oldest", "consumers")
_MINUTE: Final = 60
_HOUR: Final = 3600
_UNKNOWN: Final = "?"
_NONE: Final = "-"


def table(reading: Reading) -> str:
    """Return a line for each queue; below them, why something is not known."""
    rows = [_HEADS, *map(_row, reading.queues)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [_line(row, widths) for row in rows]
    return "\n".join([*lines, *_notes(reading)])


def duration(seconds: float) -> str:
    """Return seconds as people read them: ``4.2 s``, ``3 m 20 s``, ``2 h 5 m``."""
    whole = int(seconds)
    if whole < _MINUTE:
        return f"{seconds:.1f} s"
    if whole < _HOUR:
        return f"{whole // _MINUTE} m {whole % _MINUTE} s"
    return f"{whole // _HOUR} h {whole % _HOUR // _MINUTE} m"


def _row(queue: QueueReading) -> tuple[str, ...]:
    numbers = (queue.ready, queue.unacked, queue.oldest_age, queue.consumers)
    ready, unacked, age, consumers = (_UNKNOWN if one is None else one for one in numbers)
    oldest = duration(age) if isinstance(age, float) else _UNKNOWN
    oldest = _NONE if queue.ready == 0 else oldest
    return queue.name, str(ready), str(unacked), oldest, str(consumers)


def _line(row: tuple[str, ...], widths: list[int]) -> str:
    name, *numbers = row
    cells = [cell.rjust(width) for cell, width in zip(numbers, widths[1:], strict=True)]
    return "  ".join([name.ljust(widths[0]), *cells]).rstrip()


def _notes(reading: Reading) -> Iterator[str]:
    names = dict(zip(FIELDS, _HEADS[1:], strict=True))
    for field, reason in reading.unknown.items():
        yield f"  {names[field]} {_UNKNOWN}: {reason}"
