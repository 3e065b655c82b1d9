"""Wakes the event loop from other threads and signal handlers, and passes settled frames to it."""

from __future__ import annotations

import socket
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

_CHUNK: Final = 4096


class WakeupPipe:
    """Passes what a store releases to the event loop. Thread-safe and safe in signal handlers."""

    def __init__(self) -> None:
        self.reader, self._writer = socket.socketpair()
        self.reader.settimeout(0)
        self._writer.settimeout(0)
        # A deque's ``append`` and ``popleft`` are atomic: a signal's handler must not take a lock
        # that the code it interrupted may hold.
        self._released: deque[Sequence[object]] = deque()

    def released(self, sources: Sequence[object]) -> None:
        """Take what a store releases; see ``Store``."""
        self._released.append(sources)  # before the loop is woken, which then finds it
        self.wake()

    def wake(self) -> None:
        """Wake the loop: once, however often this is called before it runs."""
        with suppress(OSError):  # full, so the loop will be woken; or closed
            self._writer.send(b"\0")

    def empty(self) -> list[object]:
        """Return the sources that were released since the last call."""
        # The pipe first: what is released after this line wakes the loop again.
        with suppress(OSError):
            while self.reader.recv(_CHUNK):
                pass
        sources: list[object] = []
        while self._released:
            sources += self._released.popleft()
        return sources

    def close(self) -> None:
        """Close both ends; what is released from now on is ignored."""
        self.reader.close()
        self._writer.close()
