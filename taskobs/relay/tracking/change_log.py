"""What has changed in the ledger since it was last kept on disk."""

from __future__ import annotations

from typing import NamedTuple


class Changes(NamedTuple):
    """Keys of spans: open and not kept yet, kept and open no more, ended."""

    opened: list[bytes]
    closed: list[bytes]
    ended: list[bytes]


class ChangeLog:
    """Collects changes; a span that opens and closes between two looks leaves none."""

    def __init__(self) -> None:
        self._opened: dict[bytes, None] = {}
        self._closed: list[bytes] = []
        self._ended: list[bytes] = []

    def opened(self, key: bytes) -> None:
        """Note a span that is open, or whose payload has changed."""
        self._opened[key] = None

    def closed(self, key: bytes) -> None:
        """Note a span that is open no more."""
        try:
            del self._opened[key]
        except KeyError:
            self._closed.append(key)

    def ended(self, key: bytes) -> None:
        """Note a key that must not be told of again."""
        self._ended.append(key)

    def take(self) -> Changes:
        """Give what has changed since the last call."""
        changes = Changes(list(self._opened), self._closed, self._ended)
        self._opened, self._closed, self._ended = {}, [], []
        return changes
