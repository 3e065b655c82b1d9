"""Frames that an unavailable relay may not have read."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from taskobs.protocol.frames import FRAME_HEADER


class Undelivered:
    """Keeps payloads by kind until they are taken, once.

    Any thread may add and take. A kind's deque stays in its place: one that ``take`` removed could
    be what another thread is about to append to.
    """

    def __init__(self) -> None:
        self._payloads: dict[int, deque[bytes]] = {}

    def add(self, frames: Iterable[tuple[int, bytes]]) -> None:
        """Keep the payloads of these frames."""
        for kind, payload in frames:
            self._payloads.setdefault(kind, deque()).append(payload)

    def add_encoded(self, frames: Iterable[bytes]) -> None:
        """Keep the payloads of frames as they are on the socket."""
        start = FRAME_HEADER.size  # the byte before the payload is the kind
        self.add((frame[start - 1], frame[start:]) for frame in frames)

    def take(self, kind: int, prefix: bytes) -> list[bytes]:
        """Return the payloads of a kind that begin with ``prefix``; the others stay."""
        waiting = self._payloads.get(kind, deque[bytes]())
        found: list[bytes] = []
        for _ in range(len(waiting)):
            try:
                payload = waiting.popleft()
            except IndexError:  # another thread was faster
                break
            (found if payload.startswith(prefix) else waiting).append(payload)
        return found
