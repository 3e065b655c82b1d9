"""Counts frames of a process that are lost, by what they carry."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from taskobs.protocol.frames import FrameKind
from taskobs.relay.counters import Counters
from taskobs.relay.tracking.process_state import ProcessState

COUNTED_AS: Final[Mapping[int, str]] = {
    FrameKind.END: "span",
    FrameKind.ENVELOPE: "envelope",
    FrameKind.RUN_METRIC: "fact",
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
