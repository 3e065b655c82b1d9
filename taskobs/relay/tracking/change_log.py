"""Changes of the open-span registry since they were last written to disk."""

from __future__ import annotations

from typing import NamedTuple


class Changes(NamedTuple):
    """Keys of spans: open and not on disk yet, on disk and no longer open, ended."""

    opened: list[bytes]
    closed: list[bytes]
    ended: list[bytes]


class ChangeLog:
    """Collects changes; a span that opens and closes between two calls of ``take`` leaves none."""

    def __init__(self) -> None:
        self._opened: dict[bytes, None] = {}
        self._closed: list[bytes] = []
        self._ended: list[bytes] = []

    def opened(self, key: bytes) -> None:
        """Note a span that is open, or whose payload has changed."""
        self._opened[key] = None

    def closed(self, key: bytes) -> None:
        """Note a span that is no longer open."""
        try:  # it isn't on disk if it was opened after the last ``take``, so nothing is deleted
            del self._opened[key]
        except KeyError:
            self._closed.append(key)

    def ended(self, key: bytes) -> None:
        """Note a key whose next report is a duplicate."""
        self._ended.append(key)

    def take(self) -> Changes:
        """Return what has changed since the last call."""
        changes = Changes(list(self._opened), self._closed, self._ended)
        self._opened, self._closed, self._ended = {}, [], []
        return changes
