"""A little memory that a process shares with the children that it forks."""

from __future__ import annotations

import mmap
from struct import Struct
from typing import Final
from zlib import crc32

_SIZE: Final = 64 * 1024
_HEAD: Final = Struct("=II")
"""Length and CRC-32 of what was put there. Both are 0 as long as nothing was."""
_FLAGS: Final = 64
_DATA_AT: Final = _FLAGS + _HEAD.size


class SharedPage:
    """One piece of data and a few flags, which the parent and all of its children read and write.

    Nothing here waits, and no lock is taken: a process may be killed at any point. What is read in
    the midst of a write has another checksum, and counts as not there yet.
    """

    def __init__(self) -> None:
        """Make the memory; it takes room once it is written to.

        Raises:
            OSError: there is none.
        """
        self._map = mmap.mmap(-1, _SIZE)  # anonymous and shared: children inherit it by a fork

    def put(self, data: bytes) -> bool:
        """Put data there, unless there is some; False also if it is too long."""
        if len(data) > _SIZE - _DATA_AT or self.get() is not None:
            return False
        self._map[_DATA_AT : _DATA_AT + len(data)] = data
        # Last: whoever finds a length finds the data that it is of.
        self._map[_FLAGS:_DATA_AT] = _HEAD.pack(len(data), crc32(data))
        return True

    def get(self) -> bytes | None:
        """Return what was put there; None as long as nothing was."""
        length, checksum = _HEAD.unpack(self._map[_FLAGS:_DATA_AT])
        if not length:
            return None
        data = bytes(self._map[_DATA_AT : _DATA_AT + length])
        return data if crc32(data) == checksum else None

    def is_first(self, flag: int) -> bool:
        """Set a flag, and tell whether nobody has set it before; below 64.

        Of two processes that ask at the same instant, both may be told so.
        """
        if self._map[flag]:
            return False
        self._map[flag] = 1
        return True

    def close(self) -> None:
        """Let go of the memory."""
        self._map.close()
