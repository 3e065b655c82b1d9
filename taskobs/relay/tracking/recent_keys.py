"""A bounded set that forgets its oldest keys, and takes the same memory from its beginning."""

from __future__ import annotations

from array import array
from typing import Final

_WORD: Final = "Q"
_BYTES: Final = 8
_MASK: Final = 2 ** (8 * _BYTES) - 1


class RecentKeys:
    """Remembers at least the last ``number // 2`` keys that were added, and at most ``number``.

    It keeps their hashes in tables of a fixed size, where sets of 50,000 keys would grow to 4 MB.
    The hash of ``bytes`` has 64 bits: one of 10^14 new keys is taken for an old one.
    """

    def __init__(self, number: int) -> None:
        # Three tables take turns: the newest first. Each holds a quarter of the number.
        self._share = max(1, (number // 2 + 1) // 2)
        self._size = 1 << (2 * self._share).bit_length()  # at most half full: few collisions
        self._last = self._size - 1
        self._tables = [self._empty() for _ in range(3)]
        self._counts = [0, 0, 0]

    def _empty(self) -> array[int]:
        return array(_WORD, bytes(self._size * _BYTES))

    def __contains__(self, key: bytes) -> bool:
        mark, last = hash(key) & _MASK or 1, self._last  # 0 is a free entry
        for table in self._tables:
            at = mark & last
            while found := table[at]:
                if found == mark:
                    return True
                at = (at + 1) & last
        return False

    def __len__(self) -> int:
        return sum(self._counts)

    def add(self, key: bytes) -> None:
        """Remember a key, and in time forget the oldest."""
        mark, last = hash(key) & _MASK or 1, self._last
        newest, at = self._tables[0], mark & last
        while found := newest[at]:
            if found == mark:
                return
            at = (at + 1) & last
        newest[at] = mark
        self._counts[0] += 1
        if self._counts[0] >= self._share:
            self._tables = [self._empty(), *self._tables[:2]]
            self._counts = [0, *self._counts[:2]]
