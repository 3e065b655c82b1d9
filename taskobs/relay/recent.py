"""What was seen lately."""

from __future__ import annotations


class Recent:
    """Remembers at least the last ``number // 2`` keys that were added, and at most ``number``.

    Two sets take turns, which costs half of what an ordered one does.
    """

    def __init__(self, number: int) -> None:
        self._half = max(1, number // 2)
        self._new: set[bytes] = set()
        self._old: set[bytes] = set()

    def __contains__(self, key: bytes) -> bool:
        return key in self._new or key in self._old

    def __len__(self) -> int:
        return len(self._new) + len(self._old)

    def add(self, key: bytes) -> None:
        """Remember a key, and in time forget the oldest."""
        self._new.add(key)
        if len(self._new) >= self._half:
            self._old, self._new = self._new, set()
