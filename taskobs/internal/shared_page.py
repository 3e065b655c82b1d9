"""A page of memory that a process shares with its forked children."""

from __future__ import annotations

import mmap
from struct import Struct
from typing import Final
from zlib import crc32

_SIZE: Final = 64 * 1024
_HEAD: Final = Struct("=II")
"""Length and CRC-32 of the data. Both are 0 while there is none."""
_FLAGS: Final = 64
_DATA_AT: Final = _FLAGS + _HEAD.size


class SharedPage:
    """One piece of data and up to 64 flags, which the parent and its children read and write.

    It takes no lock and never waits, because a process may be killed at any point. Data that is
    read during a write fails its checksum, and counts as missing.
    """

    def __init__(self) -> None:
        """Map the memory; it is allocated at the first write.

        Raises:
            OSError: it can't be mapped.
        """
        self._map = mmap.mmap(-1, _SIZE)  # anonymous and shared, so forked children inherit it

    def put(self, data: bytes) -> bool:
        """Store data, unless there is some already; False then, or if it is too long."""
        if len(data) > _SIZE - _DATA_AT or self.get() is not None:
            return False
        self._map[_DATA_AT : _DATA_AT + len(data)] = data
        # Written last, so that a reader that sees a length finds the data complete.
        self._map[_FLAGS:_DATA_AT] = _HEAD.pack(len(data), crc32(data))
        return True

    def get(self) -> bytes | None:
        """Return the data; None if there is none yet."""
        length, checksum = _HEAD.unpack(self._map[_FLAGS:_DATA_AT])
        if not length:
            return None
        data = bytes(self._map[_DATA_AT : _DATA_AT + length])
        return data if crc32(data) == checksum else None

    def is_first(self, flag: int) -> bool:
        """Set a flag (0 to 63); tell whether it was unset before.

        Reading and setting are two steps: two processes at the same instant may both get True.
        """
        if self._map[flag]:
            return False
        self._map[flag] = 1
        return True

    def close(self) -> None:
        """Unmap the memory."""
        self._map.close()
