"""The frames that one process sends over the socket, until the relay has acknowledged them.

A frame *waits* until it is written. From then on it is *kept* until the relay acknowledges it, or
until too much is kept. A new connection begins with what the last one may not have delivered.

Any thread, greenlet, signal handler or finalizer may call ``try_enqueue``, ``enqueue``, ``opened``
and ``closed``; the other methods are for the holder of the write token. Where a time limit's signal
may raise between two lines, the order is such that a frame is sent twice rather than not at all:
the relay recognises it by its key.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from typing import Final

from taskobs.protocol.frames import (
    COUNTED,
    FRAME_HEADER,
    KEY_BYTES,
    NUMBERED,
    FrameKind,
    encode,
    pack,
)

MAX_BYTES: Final = 8 * 1024 * 1024
MAX_FRAMES: Final = 20_000
"""What may wait. A START gets half of both at most: an END contains all that it does."""
MAX_FORGET: Final = 8_192
"""Frames that may wait beyond these if they are FORGET frames."""
MAX_KEPT: Final = 2 * 1024 * 1024
"""Bytes kept after they were written. Beyond them the oldest, safe most likely, are dropped."""
MAX_OPEN: Final = 10_000
MAX_OPEN_BYTES: Final = 4 * 1024 * 1024
"""START frames kept for a relay that takes over; beyond them the oldest are dropped."""

_BATCH_FRAMES: Final = 64
_BATCH_BYTES: Final = 64 * 1024
_KIND: Final = FRAME_HEADER.size - 1
_NUMBERED: Final = frozenset(int(kind) for kind in NUMBERED)
_START: Final = int(FrameKind.START)
_END: Final = int(FrameKind.END)


class Outbox:
    """Holds frames within bounds, and counts those that it has no room for."""

    def __init__(self) -> None:
        self.dropped = dict.fromkeys(COUNTED, 0)
        """By kind, the frames that were dropped and that no DROPPED frame has reported yet."""
        self.waiting: deque[bytes] = deque()
        self._first: deque[bytes] = deque()
        self._kept: deque[bytes] = deque()
        self._kept_from = 1
        self._kept_bytes = 0
        self._open: dict[bytes, bytes] = {}
        # `+=` is not atomic, so threads may overwrite each other's sums. That only blurs the
        # bounds; the sums are set to 0 again whenever nothing is held.
        self._bytes = 0
        self._open_bytes = 0

    def __len__(self) -> int:
        """Count the frames that are not written yet."""
        return len(self._first) + len(self.waiting)

    @property
    def unacknowledged(self) -> bool:
        """Whether frames were written that may not be safe yet."""
        return bool(self._kept)

    # For any caller.

    def try_enqueue(self, frame: bytes) -> None:
        """Add a frame, or drop and count it if there is no room."""
        size, kind = len(frame), frame[_KIND]
        part = 2 if kind == _START else 1
        if (self._bytes + size) * part > MAX_BYTES or len(self.waiting) * part >= MAX_FRAMES:
            self.drop(kind, frame[FRAME_HEADER.size :])
            return
        self._bytes += size
        self.waiting.append(frame)

    def drop(self, kind: int, payload: bytes) -> None:
        """Count a frame that has no room; should it be an END, have the relay forget the span."""
        if kind in self.dropped:
            self.dropped[FrameKind(kind)] += 1
        key = payload[:KEY_BYTES]
        if kind == _END and key in self._open and len(self.waiting) < MAX_FRAMES + MAX_FORGET:
            self.enqueue(encode(FrameKind.FORGET, key))

    def enqueue(self, frame: bytes) -> None:
        """Take a frame even if there is no room."""
        self._bytes += len(frame)
        self.waiting.append(frame)

    def opened(self, key: bytes, start: bytes) -> None:
        """Remember a span's START frame until it ends."""
        self._open[key] = start
        self._open_bytes += len(start)
        if self._open_bytes > MAX_OPEN_BYTES or len(self._open) > MAX_OPEN:
            self._forget_open()

    def closed(self, key: bytes) -> None:
        """Forget a span's START frame."""
        start = self._open.pop(key, None)
        if start is not None:
            self._open_bytes -= len(start)
        if not self._open:
            self._open_bytes = 0

    def _forget_open(self) -> None:
        for key in list(self._open)[: max(1, len(self._open) // 16)]:
            self.closed(key)

    # For the holder of the write token.

    def peek(self) -> list[bytes]:
        """Return the frames to write next: at most 64 KiB, or one."""
        if any(self.dropped.values()) and len(self.waiting) < _BATCH_FRAMES:
            self._enqueue_dropped()
        source = self._first or self.waiting
        count = min(len(source), _BATCH_FRAMES)
        if count < 2:  # noqa: PLR2004  # the common case
            return [source[0]] if count else []
        frames: list[bytes] = []
        size = 0
        for index in range(count):
            frame = source[index]
            size += len(frame)
            if frames and size > _BATCH_BYTES:
                break
            frames.append(frame)
        return frames

    def _enqueue_dropped(self) -> None:
        counts = {kind.name: number for kind, number in self.dropped.items() if number}
        self.enqueue(encode(FrameKind.DROPPED, pack(counts)))
        for kind in COUNTED:  # subtracted, not set to 0: another thread may have added to it
            self.dropped[kind] -= counts.get(kind.name, 0)

    def wrote(self, frames: Iterable[bytes]) -> None:
        """Keep frames that ``peek`` returned, of which at least a part is written."""
        source = self._first or self.waiting
        waited = source is self.waiting
        for frame in frames:
            # Kept first, then taken out: an exception in between doubles a frame and loses none.
            if frame[_KIND] in _NUMBERED:
                self._keep(frame)
            if waited:
                self._bytes -= len(frame)
            source.popleft()
        if not self.waiting:
            self._bytes = 0

    def _keep(self, frame: bytes) -> None:
        self._kept.append(frame)
        self._kept_bytes += len(frame)
        while self._kept_bytes > MAX_KEPT:
            self._drop_oldest()

    def _drop_oldest(self) -> None:
        self._kept_bytes -= len(self._kept.popleft())
        self._kept_from += 1

    def acked(self, number: int) -> None:
        """Forget the frames up to this number of the connection: they were acknowledged."""
        while self._kept and self._kept_from <= number:
            self._drop_oldest()

    def connected(self, greeting: Iterable[bytes]) -> None:
        """Begin a connection: with the greeting, the open spans, and what isn't acknowledged."""
        kept = list(self._kept)
        self._first = deque([*greeting, *list(self._open.values()), *kept])
        self._kept.clear()
        self._kept_bytes = 0
        self._kept_from = 1

    def lost(self) -> None:
        """End a connection: what it was to begin with, and has not sent, is kept for the next."""
        first, self._first = self._first, deque()
        for frame in first:
            if frame[_KIND] in _NUMBERED:
                self._keep(frame)

    def empty(self) -> list[bytes]:
        """Remove and return all frames: those that aren't acknowledged, and those that wait."""
        self.lost()
        frames = list(self._kept)
        self._kept.clear()
        self._kept_bytes = 0
        with suppress(IndexError):  # also if another thread takes the last one
            while True:
                frames.append(self.waiting.popleft())
        self._bytes = 0
        return frames
