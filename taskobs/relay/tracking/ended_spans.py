"""Where ended spans go: to their route, to the store, or held until their run ends."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Final

from taskobs.protocol.frames import FrameError
from taskobs.protocol.held_spans.marks import mark_of, sampled
from taskobs.protocol.held_spans.rules import KeepRules
from taskobs.protocol.held_spans.runs import HeldRuns, HeldSpan
from taskobs.protocol.span_routes import route_of
from taskobs.relay.counters import DISCARDED, Counters
from taskobs.relay.storage.items import Item
from taskobs.relay.tracking.acknowledgements import Source
from taskobs.relay.tracking.change_log import ChangeLog
from taskobs.relay.tracking.open_spans import Closed
from taskobs.relay.tracking.process_state import ProcessState

HELD: Final = "held span"
NO_ROOM: Final = "too many spans of runs that have not ended"
_POOL_CHILD: Final = "pool child"
"""The role of a process that has one run at a time; see ``celery.roles``."""


Arrived = tuple[Source, int]
"""A frame, or an entry of a table of open spans."""


class EndedSpans:
    """Gathers what has ended in one turn of the event loop.

    ``route`` takes a span that has a route. Not thread-safe.
    """

    def __init__(
        self,
        route: Callable[[bytes, bytes, Arrived | None], object],
        change_log: ChangeLog,
        counters: Counters,
        keep: KeepRules,
    ) -> None:
        self._route, self._change_log, self._counters = route, change_log, counters
        self._held = HeldRuns(keep, self._no_room)
        self._items: list[Item] = []
        self._settled: list[object] = []
        counters.gauge("held", lambda: self._held.spans, "span")

    def add(self, item: Item) -> None:
        """Take something for the store."""
        self._items.append(item)

    def put(self, process: ProcessState, key: bytes, packed: bytes, source: Source) -> None:
        """Take a span that its process has ended; the frame of ``source`` is being handled."""
        arrived = source, source.arrived(settled=False)
        if mark_of(packed) is None:
            self._put(key, packed, process.resource_blob, arrived)
        else:
            # A pool child's is not settled before the run ends, so that the next relay reads it
            # again. In an inline worker an open run would keep from being settled what other runs
            # have sent since, and the next relay would send that once more.
            lasting = process.role == _POOL_CHILD
            self._hold(HeldSpan(key, packed, process.resource_blob, arrived), lasting=lasting)

    def put_lost(self, lost: Iterable[Closed]) -> None:
        """Take spans that were open when their process died."""
        for one in lost:
            if one.source is not None:
                one.source[0].expect(one.source[1])
            if mark_of(one.packed) is None:
                self._put(one.key, one.packed, one.resource_blob, one.source)
            else:
                span = HeldSpan(one.key, one.packed, one.resource_blob, one.source)
                self._hold(span, lasting=True)

    def forget(self, key: bytes) -> None:
        """Discard what is held for a run whose end was dropped, and so can't be known."""
        self._discard(self._held.forget(key))

    def take(self) -> list[Item]:
        """Return what is for the store."""
        items, self._items = self._items, []
        return items

    def take_settled(self) -> Sequence[object]:
        """Return the sources of what needs no storing."""
        settled, self._settled = self._settled, []
        return settled

    def _put(self, key: bytes, packed: bytes, resource_blob: bytes, source: Arrived | None) -> None:
        if route_of(packed):
            self._route(key, packed, source)
        else:
            self._items.append(Item("span", packed, resource_blob, source))

    # Held spans.

    def _hold(self, span: HeldSpan, *, lasting: bool) -> None:
        """Take a span; unless ``lasting``, settle it now if nothing is decided by it."""
        try:
            decided = self._held.decide(span)
        except FrameError as error:
            self._malformed(span, error)
            return
        if decided is not None:
            for one in decided.kept:
                self._keep(one)
            self._discard(decided.discarded)
        elif lasting:
            self._held.hold(span)
        else:
            self._settled.append(span.source)
            self._held.hold(span._replace(source=None))

    def _keep(self, span: HeldSpan) -> None:
        try:
            packed = sampled(span.packed)
        except FrameError as error:
            self._malformed(span, error)
            return
        # Only now: what is noted as ended, the next relay leaves out.
        self._change_log.ended(span.key)
        self._items.append(Item("span", packed, span.resource_blob, span.source))

    def _discard(self, spans: Sequence[HeldSpan]) -> None:
        if spans:
            self._counters.add(DISCARDED, "span", len(spans))
            self._settle(spans)

    def _no_room(self, spans: Sequence[HeldSpan]) -> None:
        self._counters.dropped(HELD, len(spans), NO_ROOM)
        self._settle(spans)

    def _malformed(self, span: HeldSpan, error: FrameError) -> None:
        self._counters.dropped("span", 1, "malformed", str(error))
        self._settle([span])

    def _settle(self, spans: Iterable[HeldSpan]) -> None:
        self._settled += [one.source for one in spans]
