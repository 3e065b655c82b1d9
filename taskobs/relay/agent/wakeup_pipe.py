"""What other threads, and signals, have for the relay's loop."""

from __future__ import annotations

import socket
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

_CHUNK: Final = 4096


class WakeupPipe:
    """Takes what a store releases, and wakes the loop. Thread-safe, and safe in a signal."""

    def __init__(self) -> None:
        self.reader, self._writer = socket.socketpair()
        self.reader.settimeout(0)
        self._writer.settimeout(0)
        self._released: deque[Sequence[object]] = deque()

    def released(self, sources: Sequence[object]) -> None:
        """Take what a store releases; see ``store.Released``."""
        self._released.append(sources)
        self.wake()

    def wake(self) -> None:
        """Have the loop look around, once however often this is called meanwhile."""
        with suppress(OSError):  # full, so the loop will be woken; or closed
            self._writer.send(b"\0")

    def empty(self) -> list[object]:
        """Give the sources that were released since the last call."""
        with suppress(OSError):
            while self.reader.recv(_CHUNK):
                pass
        sources: list[object] = []
        while self._released:
            sources += self._released.popleft()
        return sources

    def close(self) -> None:
        """End it; what is released from now on is forgotten."""
        self.reader.close()
        self._writer.close()
