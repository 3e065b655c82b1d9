"""Spans of the app's own providers on their way to the lanes of their destinations."""

from __future__ import annotations

import time
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Final, NamedTuple

from taskobs.protocol import span_routes
from taskobs.protocol.span_routes import Route
from taskobs.relay.agent.lanes import Lane, Lanes, Mark
from taskobs.relay.counters import Counters
from taskobs.relay.storage.items import ITEM_KINDS, Item, ItemKind
from taskobs.relay.tracking.acknowledgements import Source

ROUTES: Final = 2_048
"""Routes that are kept: where a resource has its process's id, each process has its own."""
WAITS: Final = 5.0
"""Seconds that a span waits for its route: slots are read once a second, and connections later."""
HELD: Final = 1024 * 1024
"""Bytes of spans that wait for their routes, and of log records that wait to be stored."""
UNANNOUNCED: Final = "no process says where they go"
NO_LANE: Final = "their exporter can't be used, or there are too many"
NO_LOGS: Final = "their exporter can't be used, or they are not sent"


Batches = dict[int, tuple[Lane, list[Item], list[bytes]]]
"""What is to be stored in each lane, with the spans' keys."""


class RoutedSpan(NamedTuple):
    """A finished span, and what to settle once it is safe at all of its destinations."""

    key: bytes
    packed: bytes
    source: tuple[Source, int] | None
    arrived: float


class RouteTable:
    """Knows the routes that processes have announced, and sends spans along them.

    Not thread-safe.
    """

    def __init__(
        self, lanes: Lanes, counters: Counters, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.lanes = lanes
        self._counters, self._clock = counters, clock
        self._routes: OrderedDict[bytes, Route] = OrderedDict()
        self._spans: deque[RoutedSpan] = deque()
        self._size = 0
        self.misses = False
        """Whether a span has come whose route is not known; who announces anew resets it."""
        self._logs: list[Item] = []
        self._log_bytes = 0
        self._settled: list[object] = []

    @property
    def pending(self) -> int:
        """How many items are not sent yet, in all stores."""
        waiting = len(self._spans) + len(self._logs)
        return waiting + sum(map(self.lanes.pending, ITEM_KINDS))

    def waiting(self, kind: ItemKind) -> int:
        """How many items of a kind are not sent yet."""
        held = {"span": len(self._spans), "log": len(self._logs)}
        return self.lanes.pending(kind) + held.get(kind, 0)

    def flush(self, route: bytes = b"") -> Mark:
        """Have all that waits sent without a delay; return a mark for ``is_safe``.

        With a ``route``, the mark is of its destinations only.
        """
        found = self._routes.get(route)
        return self.lanes.flush(None if found is None else found.exporters)

    def check(self) -> None:
        """Check that the stored items are still there."""
        self.lanes.check()

    def is_safe(self, mark: Mark) -> bool:
        """Tell whether all that waited at the time of a mark outlives this process."""
        return not (self._spans or self._logs) and self.lanes.is_safe(mark)

    def announce(self, announced: bytes) -> bool:
        """Take an announcement; False if it is not one of exporters.

        Raises:
            FrameError: it is malformed.
        """
        key = span_routes.route_for(announced)
        if key in self._routes:
            self._routes.move_to_end(key)
            return True
        route = span_routes.parse(announced)
        if route is None:
            return False
        self._routes[key] = route
        for exporter in route.exporters:
            self.lanes.find(exporter)  # also for what an earlier relay has left there
        while len(self._routes) > ROUTES:
            self._routes.popitem(last=False)
        return True

    def put(self, key: bytes, packed: bytes, source: tuple[Source, int] | None) -> None:
        """Take a finished span that has a route; ``commit`` stores it."""
        self._spans.append(RoutedSpan(key, packed, source, self._clock()))
        self._size += len(packed)

    def put_log(self, payload: bytes, resource_blob: bytes, source: Source) -> None:
        """Take a log record, which ``commit`` stores; without a lane it is dropped and counted."""
        if self.lanes.logs is None:
            self._counters.dropped("log", 1, NO_LOGS)
            source.arrived(settled=True)
            return
        number = source.arrived(settled=False)
        self._logs.append(Item("log", payload, resource_blob, (source, number)))
        self._log_bytes += len(payload)
        if self._log_bytes > HELD:
            self._settled += self._commit_logs()

    def commit(self) -> list[object]:
        """Store what has come; return the sources of what is safe on disk, or was dropped."""
        settled, self._settled = self._settled, []
        if self._logs:
            settled += self._commit_logs()
        return [*settled, *self._commit_spans()] if self._spans else settled

    def _commit_logs(self) -> list[object]:
        logs, self._logs, self._log_bytes = self._logs, [], 0
        lane = self.lanes.logs
        return list(lane.store.append(logs)) if lane is not None else []

    def _commit_spans(self) -> list[object]:
        settled: list[object] = []
        spans, self._spans, self._size = self._spans, deque(), 0
        batches: Batches = {}
        for one in spans:
            route = self._routes.get(span_routes.route_of(one.packed))
            if route is None:
                self._wait(one, settled)
            else:
                self._distribute(one, route, batches, settled)
        _store(batches, settled)
        return settled

    def _wait(self, one: RoutedSpan, settled: list[object]) -> None:
        """Keep a span whose route nobody has announced yet, or so long ago that it is forgotten."""
        self.misses = True
        if self._clock() - one.arrived < WAITS and self._size < HELD:
            self._spans.append(one)
            self._size += len(one.packed)
        else:
            self._counters.dropped("span", 1, UNANNOUNCED)
            settled.append(one.source)

    def _distribute(
        self, one: RoutedSpan, route: Route, batches: Batches, settled: list[object]
    ) -> None:
        self._routes.move_to_end(span_routes.route_of(one.packed))  # what is used is kept
        if one.source is not None:
            one.source[0].expect(one.source[1], len(route.exporters))
        for exporter in route.exporters:
            if not self.lanes.has(exporter):
                _store(batches, settled)  # first: a lane that nothing waits for may be closed
            lane = self.lanes.find(exporter)
            if lane is None:
                self._counters.dropped("span", 1, NO_LANE)
            if lane is None or one.key in lane.ended:
                settled.append(one.source)
                continue
            _, items, keys = batches.setdefault(id(lane.store), (lane, [], []))
            items.append(Item("span", one.packed, route.resource_blob, one.source))
            keys.append(one.key)


def _store(batches: Batches, settled: list[object]) -> None:
    """Store what has been gathered for each lane."""
    for lane, items, keys in batches.values():
        # With the keys, by which the next relay recognises what was stored in this lane and
        # not in another one, should this one be killed in between.
        settled += lane.store.append(items, (), keys if lane.store.durable else ())
    batches.clear()
