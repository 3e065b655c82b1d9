"""Frames that one thread leaves to another one, which writes to the ring at that moment."""

from __future__ import annotations

from collections import deque
from typing import Final

from taskobs.protocol.shared_memory import DEFERRED, KINDS, WORD

DeferredFrame = tuple[int, bytes]
"""A frame's kind and payload."""
_NONE: Final = memoryview(bytes(KINDS * WORD)).cast("Q")


class DeferredFrames(deque[DeferredFrame]):
    """A queue in this process's memory; words of its slot say how much of each kind it holds.

    The relay counts that as dropped if the process is killed before it is written. Any thread,
    greenlet or signal handler may call ``defer``; the others are for the holder of the write token.
    """

    def __init__(self, words: memoryview[int]) -> None:
        super().__init__()
        self._words = words

    def defer(self, kind: int, payload: bytes) -> None:
        """Add a frame, and count it."""
        self.append((kind, payload))
        self._count(kind, 1)

    def remove_first(self) -> None:
        """Remove the first frame, which is written."""
        kind, _ = self.popleft()
        self._count(kind, -1)

    def _count(self, kind: int, change: int) -> None:
        words = self._words
        # No call is made here, so no other thread counts in between. What an exception has left too
        # high or too low is right again when nothing waits.
        if words[DEFERRED + kind] + change >= 0:
            words[DEFERRED + kind] += change
        if not self:
            words[DEFERRED : DEFERRED + KINDS] = _NONE
