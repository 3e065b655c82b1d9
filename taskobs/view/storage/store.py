"""Keeps what has arrived, by trace, within a bound; gives what has changed since a revision."""

from __future__ import annotations

import re
import threading
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Final, NamedTuple

from taskobs.testing.wire import Received, ReceivedEvent, ReceivedLog, ReceivedSpan
from taskobs.view.storage.kept_trace import KeptTrace
from taskobs.view.storage.records import Record, event_record, log_record, span_record

MEBIBYTE: Final = 1024 * 1024
SHARE: Final = 4
"""A trace may take this part of the bound: one without end would leave no room for others."""
SPREAD: Final = 0.2
"""Seconds for which further changes are waited for, so that a page is not told of each."""
OUTSIDE: Final = "outside"
"""Stands for the id of a trace where log lines and events have none."""
_TRACE_ID: Final = re.compile(r"[0-9a-f]{32}")


class Query(NamedTuple):
    """What the search asks for; an empty one finds all."""

    text: str = ""
    outcome: str = ""

    def finds(self, trace: KeptTrace) -> bool:
        """Tell whether a trace is asked for."""
        return trace.matches(self.text, self.outcome)


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """An answer to a search, and how far it goes."""

    traces: list[dict[str, object]]
    cursor: int
    """The revision to ask from the next time."""
    evicted: int
    """Each trace whose revision is this or lower is no longer kept."""
    more: bool
    """There are more, which were not given."""


class _Arrival(NamedTuple):
    trace_id: str
    record: Record
    describe: Callable[[KeptTrace], None]
    """Takes it into what the list says of its trace."""


class Store:
    """What is kept. Thread-safe.

    Each change of a trace gives it the next revision, and traces are kept in the order of their
    revisions. So whoever has seen everything up to a revision asks for what is above it, and
    gets each later state once, however often they ask. The lowest revisions are evicted first, so
    one number says which traces are no longer kept.
    """

    def __init__(self, limit: int) -> None:
        """``limit`` is in bytes."""
        self.limit = limit
        self._changed = threading.Condition()
        self._traces: OrderedDict[str, KeptTrace] = OrderedDict()
        self._revision = 0
        self._numbers = 0
        self._size = 0
        self._evicted = 0
        self._counts: Counter[str] = Counter()
        self.closed = False

    def take(self, received: Iterable[Received]) -> None:
        """Keep what has arrived together."""
        arrivals = [arrival for one in received if (arrival := _arrival(one)) is not None]
        with self._changed:
            for arrival in arrivals:
                self._keep(arrival)
            self._evict()
            self._changed.notify_all()

    def _keep(self, arrival: _Arrival) -> None:
        trace = self._traces.get(arrival.trace_id) or self._begin(arrival.trace_id)
        before = trace.size
        if trace.add(arrival.record):
            arrival.describe(trace)
            self._counts[arrival.record.kind] += 1
            self._revision += 1
            trace.revision = self._revision
            self._traces.move_to_end(arrival.trace_id)
        while trace.size > self.limit // SHARE and len(trace.records) > 1:
            trace.drop_oldest()
            self._counts["dropped_records"] += 1
        self._size += trace.size - before

    def _begin(self, trace_id: str) -> KeptTrace:
        self._numbers += 1
        title = "Outside of traces" if trace_id == OUTSIDE else ""
        trace = self._traces[trace_id] = KeptTrace(trace_id, self._numbers, title=title)
        self._size += trace.size
        return trace

    def _evict(self) -> None:
        while self._size > self.limit and len(self._traces) > 1:
            _, trace = self._traces.popitem(last=False)
            self._size -= trace.size
            self._evicted = trace.revision
            self._counts["dropped_traces"] += 1

    def newest(self, query: Query, *, below: int | None, limit: int) -> Found:
        """Return the traces that began last, of those whose number is below one."""
        with self._changed:
            kept = sorted(self._traces.values(), key=lambda trace: trace.number, reverse=True)
            found = (one for one in kept if below is None or one.number < below)
            traces = list(islice(filter(query.finds, found), limit + 1))
            return self._found(traces, limit, self._revision)

    def changed(self, query: Query, *, after: int, limit: int, timeout: float) -> Found:
        """Return what has changed after a revision, oldest first; wait for it if need be.

        It returns without a trace once ``timeout`` seconds have passed, or at `close`.
        """
        with self._changed:
            if self._changed.wait_for(lambda: self._revision > after or self.closed, timeout):
                self._changed.wait_for(lambda: self.closed, min(SPREAD, timeout))
            traces = [trace for trace in self._after(after) if query.finds(trace)]
            traces.reverse()
            more = len(traces) > limit
            cursor = traces[limit - 1].revision if more else self._revision
            return self._found(traces, limit, cursor)

    def _after(self, revision: int) -> Iterator[KeptTrace]:
        for trace in reversed(self._traces.values()):
            if trace.revision <= revision:
                return
            yield trace

    def _found(self, traces: list[KeptTrace], limit: int, cursor: int) -> Found:
        return Found(
            traces=[trace.summary() for trace in traces[:limit]],
            cursor=cursor,
            evicted=self._evicted,
            more=len(traces) > limit,
        )

    def trace(self, trace_id: str) -> tuple[dict[str, object], list[Record]] | None:
        """Return what the list says of a trace, and its records; None if it is not kept."""
        with self._changed:
            trace = self._traces.get(trace_id)
            return None if trace is None else (trace.summary(), list(trace.records.values()))

    def totals(self) -> dict[str, int]:
        """Return what has arrived, what is kept of it, and what is not."""
        with self._changed:
            kept = {"traces": len(self._traces), "bytes": self._size, "limit": self.limit}
            return {**self._counts, **kept}

    def close(self) -> None:
        """Let whoever waits in `changed` go on at once."""
        with self._changed:
            self.closed = True
            self._changed.notify_all()


def _arrival(one: Received) -> _Arrival | None:
    match one:
        case ReceivedSpan():
            describe = partial(KeptTrace.describe_span, span=one)
            return _Arrival(_id(one.trace_id), span_record(one), describe)
        case ReceivedLog():
            describe = partial(KeptTrace.describe_log, log=one)
            return _Arrival(_id(one.trace_id), log_record(one), describe)
        case ReceivedEvent():
            issue, record = event_record(one)
            describe = partial(KeptTrace.describe_event, issue=issue)
            return _Arrival(_id(issue.trace_id), record, describe)
        case _:
            return None


def _id(trace_id: str) -> str:
    return trace_id if _TRACE_ID.fullmatch(trace_id) else OUTSIDE
