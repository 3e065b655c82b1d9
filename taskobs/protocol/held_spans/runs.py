"""Holds the spans of runs whose trace is not sampled until it is known whether the run is kept."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from taskobs.protocol.frames import KEY_BYTES, FrameError
from taskobs.protocol.held_spans.decision import is_kept
from taskobs.protocol.held_spans.marks import RUN_BYTES, mark_of, row_of
from taskobs.protocol.held_spans.rules import KeepRules

RUNS: Final = 10_000
"""Open runs that spans are held of; beyond, those of the oldest are dropped."""
BYTES: Final = 8 * 1024 * 1024
"""Bytes of all held spans; beyond, those of the oldest run are dropped."""
RUN_SPANS: Final = 1_000
RUN_BYTES_HELD: Final = 1024 * 1024
"""Bounds for the spans of one run; beyond them, its oldest are dropped."""
ENDED: Final = 4_096
"""Runs whose end is remembered: a span that a thread ends later goes the way of its run."""
SPAN_OVERHEAD: Final = 260
"""About how many bytes a held span takes beside its payload."""
RUN_OVERHEAD: Final = 600
"""About how many bytes an open run takes beside its spans."""
_CUT: Final = RUN_SPANS // 8
_TRACE_BYTES: Final = KEY_BYTES - RUN_BYTES


class HeldSpan(NamedTuple):
    """A span that has ended, with its mark."""

    key: bytes
    packed: bytes
    resource_blob: bytes
    """As ``Item`` has it."""
    source: object = None
    """What to settle once it is safe, or discarded."""


class Decided(NamedTuple):
    """What became of held spans."""

    kept: list[HeldSpan]
    discarded: list[HeldSpan]
    """Those of runs that need not be kept."""


@dataclass(slots=True, eq=False)
class _OpenRun:
    spans: list[HeldSpan] = field(default_factory=list[HeldSpan])
    size: int = RUN_OVERHEAD


class HeldRuns:
    """Holds ended spans by run, and decides at the end of a run by ``rules``.

    Of runs inside each other, one that is kept keeps all of the outermost. ``dropped`` is called
    with the spans that there is no room for. Not thread-safe.
    """

    def __init__(self, rules: KeepRules, dropped: Callable[[list[HeldSpan]], object]) -> None:
        self._rules, self._dropped = rules, dropped
        self._open: dict[bytes, _OpenRun] = {}
        """By run, the one that was seen first comes first."""
        self._kept: dict[bytes, None] = {}
        self._discarded: dict[bytes, None] = {}
        self.size = 0
        """About how many bytes all of it takes."""
        self.spans = 0

    def __len__(self) -> int:
        return len(self._open)

    def ended(self, span: HeldSpan) -> Decided:
        """Take a span that has ended; return what is decided by that.

        Raises:
            FrameError: it has no mark, or is a run and malformed.
        """
        decided = self.decide(span)
        if decided is None:
            self.hold(span)
        return decided or Decided([], [])

    def decide(self, span: HeldSpan) -> Decided | None:
        """Return what is decided by a span that has ended; None if it is to be held.

        Raises:
            FrameError: it has no mark, or is a run and malformed.
        """
        mark = mark_of(span.packed)
        if mark is None:
            raise FrameError("no mark")
        run = span.key[:_TRACE_BYTES] + mark.run
        if run in self._kept:
            return Decided([span], [])
        if run in self._discarded:
            return Decided([], [span])
        if mark.is_run and is_kept(self._rules, row_of(span.packed)):
            return Decided([*self._close(run, self._kept), span], [])
        if run == span.key:
            return Decided([], [*self._close(run, self._discarded), span])
        return None

    def hold(self, span: HeldSpan) -> None:
        """Hold a span until its run ends."""
        mark = mark_of(span.packed)
        if mark is not None:
            self._hold(span.key[:_TRACE_BYTES] + mark.run, span)

    def forget(self, key: bytes) -> list[HeldSpan]:
        """Return the spans of a run whose end can't be known: they are discarded."""
        return self._close(key, self._discarded) if key in self._open else []

    def _close(self, run: bytes, ended: dict[bytes, None]) -> list[HeldSpan]:
        ended[run] = None
        if len(ended) > ENDED:
            del ended[next(iter(ended))]
        found = self._open.pop(run, None)
        if found is None:
            return []
        self.size -= found.size
        self.spans -= len(found.spans)
        return found.spans

    def _hold(self, run: bytes, span: HeldSpan) -> None:
        held = self._open.get(run)
        if held is None:
            held = self._open[run] = _OpenRun()
            self.size += held.size
        size = _size(span)
        held.spans.append(span)
        held.size += size
        self.size += size
        self.spans += 1
        if len(held.spans) > RUN_SPANS or held.size > RUN_BYTES_HELD:
            self._drop_some(held)
        while len(self._open) > RUNS or self.size > BYTES:
            self._drop_oldest()

    def _drop_some(self, held: _OpenRun) -> None:
        """Drop the oldest spans of a run, an eighth of what it may have, and one at least."""
        # Several in one go: each cut moves all that stay.
        spans = size = 0
        while spans < min(len(held.spans), _CUT) and size < RUN_BYTES_HELD // 8:
            size += _size(held.spans[spans])
            spans += 1
        dropped, held.spans[:spans] = held.spans[:spans], []
        held.size -= size
        self.size -= size
        self.spans -= spans
        self._dropped(dropped)

    def _drop_oldest(self) -> None:
        oldest = next(iter(self._open))
        found = self._open.pop(oldest)
        self.size -= found.size
        self.spans -= len(found.spans)
        self._dropped(found.spans)


def _size(span: HeldSpan) -> int:
    return len(span.packed) + SPAN_OVERHEAD
