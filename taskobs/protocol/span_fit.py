"""Cuts spans that are too large for a frame, and counts what was left out as dropped.

A receiver refuses a payload that is too long, or that has too many lists and maps, as a whole.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, cast

from taskobs.protocol.frames import MAX_CONTAINERS, MAX_LENGTH, FrameError, pack, unpack

MOST: Final = MAX_CONTAINERS // 2
"""Events, or links, that a frame can hold at most: each is a list with a map in it."""
_HEADS: Final = 16
"""Bytes by which the packed parts of a list are shorter than the list."""

_log: Final = logging.getLogger("taskobs")
_said: Final[set[str]] = set()


def fits(packed: bytes, limit: int) -> bool:
    """Tell whether a receiver takes a packed value that may have ``limit`` bytes."""
    if len(packed) <= min(limit, MAX_CONTAINERS):
        return True  # each list or map takes a byte
    if len(packed) > limit:
        return False
    try:
        unpack(packed)
    except FrameError:
        return False
    return True


class Room:
    """The room that is left in a frame, in bytes and in lists and maps."""

    def __init__(self, limit: int) -> None:
        self._bytes = limit - _HEADS
        self._containers = MAX_CONTAINERS

    def take(self, value: object) -> bool:
        """Use up what a value needs, if there is enough."""
        left, containers = self._bytes - len(pack(value)), self._containers - _containers(value)
        if left < 0 or containers < 0:
            return False
        self._bytes, self._containers = left, containers
        return True

    def take_items(self, values: Mapping[str, object]) -> Mapping[str, object]:
        """Return the items of a map that there is room for."""
        if self.take(values):
            return values
        return {key: value for key, value in values.items() if self.take({key: value})}

    def take_last(self, values: Sequence[Any], most: int = MAX_LENGTH) -> list[Any]:
        """Return the last of the values that there is room for."""
        taken: list[Any] = []
        for value in reversed(values[-most:]):
            if not self.take(value):
                break
            taken.append(value)
        taken.reverse()
        return taken


def _containers(value: object) -> int:
    if isinstance(value, Mapping):
        parts: Iterable[object] = cast("Mapping[object, object]", value).values()
    elif isinstance(value, (list, tuple)):
        parts = cast("Iterable[object]", value)
    else:
        return 0
    return 1 + sum(map(_containers, parts))


def say_dropped(span: object, what: str, number: int) -> None:
    """Log that parts of a span were dropped, once a process for each kind of part."""
    if what not in _said:
        _said.add(what)
        _log.warning(
            "taskobs: span %r is too large: dropped %d %s, which its dropped counts include. "
            "This is logged once",
            *(span, number, what),
        )
