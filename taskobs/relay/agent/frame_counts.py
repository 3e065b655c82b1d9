"""Counts frames by what they carry: those that a relay has received, and those that are lost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Final

from taskobs.protocol.frames import FrameKind
from taskobs.relay.counters import BYTES, RECEIVED, Counters
from taskobs.relay.tracking.process_state import ProcessState

COUNTED_AS: Final[Mapping[int, str]] = {
    FrameKind.END: "span",
    FrameKind.ENVELOPE: "envelope",
    FrameKind.LOG: "log",
}
BUFFER_FULL: Final = "a process's buffer was full"
KILLED_WRITING: Final = "their process was killed while it wrote them"
MALFORMED: Final = "malformed"
NOT_UNDERSTOOD: Final = "not understood"


def count_dropped(
    counters: Counters,
    process: ProcessState,
    dropped: Mapping[FrameKind, int],
    reason: str = BUFFER_FULL,
) -> None:
    """Count frames by kind; by default, those that a process had no room for."""
    for kind, number in dropped.items():
        counters.dropped(COUNTED_AS[kind], number, reason, f"pid {process.pid}")


def count_malformed(
    counters: Counters, process: ProcessState, kind: int, error: Exception, reason: str = MALFORMED
) -> None:
    """Count one frame that can't be used; ``kind`` is 0 if it can't be read either."""
    detail = f"pid {process.pid}: {error if reason == MALFORMED else repr(error)}"
    counters.dropped(COUNTED_AS.get(kind, "frame"), 1, reason, detail)


class ReceivedFrames:
    """What has come since the last call of ``count``."""

    def __init__(self, counters: Counters) -> None:
        self._counters = counters
        self.kinds: Counter[int] = Counter()
        self.bytes = 0

    def count(self) -> None:
        """Add it to the counters: once a turn, as each addition takes a lock."""
        for kind, what in COUNTED_AS.items():
            number = self.kinds.pop(kind, 0)
            if number:
                self._counters.add(RECEIVED, what, number)
        if self.bytes:
            self._counters.add(BYTES, "frame", self.bytes)
        self.bytes = 0
