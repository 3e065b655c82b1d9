"""A bounded set that forgets its oldest keys."""

from __future__ import annotations


class RecentKeys:
    """Remembers at least the last ``number // 2`` keys that were added, and at most ``number``.

    Three sets take turns, which costs half of what an ordered one does.
    """

    def __init__(self, number: int) -> None:
        # CPython enlarges a set fourfold when it is three fifths full, for one at 19,661 keys. Of
        # 50,000 keys, each of these sets has at most 12,500.
        self._share = max(1, (number // 2 + 1) // 2)
        self._new: set[bytes] = set()
        self._old: set[bytes] = set()
        self._oldest: set[bytes] = set()

    def __contains__(self, key: bytes) -> bool:
        return key in self._new or key in self._old or key in self._oldest

    def __len__(self) -> int:
        return len(self._new) + len(self._old) + len(self._oldest)

    def add(self, key: bytes) -> None:
        """Remember a key, and in time forget the oldest."""
        self._new.add(key)
        if len(self._new) >= self._share:
            self._oldest, self._old, self._new = self._old, self._new, set()
