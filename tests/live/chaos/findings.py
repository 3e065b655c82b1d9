"""What tasks wrote down, held against what arrived and what was counted as dropped."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from taskobs import semconv
from tests.live.chaos.rows import Row
from tests.live.shop import tags, trace_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from taskobs.testing.wire import ReceivedEvent, ReceivedSpan
    from tests.live.chaos.task_log import Address, Run, Span, TaskLog

RECEIVED = re.compile(r"Task \S+\[(\S+)\] received")
SHOWN = 5
"""Complaints of a kind that a report shows."""
DROPPED = "dropped, as counted"


@dataclass(frozen=True)
class Kills:
    """Who was killed."""

    of_children: frozenset[int] = frozenset()
    """Their process ids."""


@dataclass(frozen=True)
class Arrived:
    """What backends got."""

    spans: Sequence[ReceivedSpan]
    events: Sequence[ReceivedEvent]
    attachments: Sequence[int] = ()
    """The sizes of the events' attachments."""


@dataclass
class Balance:
    """What is missing of one kind of telemetry, against what was counted as dropped."""

    missing: int = 0
    unsure: int = 0
    """Of these nobody can say whether they were made at all: their process was killed meanwhile."""
    counted: int = 0

    @property
    def good(self) -> bool:
        """Whether exactly what is missing was counted."""
        return self.missing <= self.counted <= self.missing + self.unsure


class Finding:
    """What arrived, held against a task_log, the workers' log, and what was counted as dropped."""

    def __init__(
        self,
        task_log: TaskLog,
        arrived: Arrived,
        log: str,
        kills: Kills,
        counted: Mapping[str, int],
    ) -> None:
        """``counted`` has the numbers that were dropped, by kind; see `Losses.by_kind`."""
        last = {run.pid: address for address, run in task_log.runs.items()}
        self._cut_short = {last[pid] for pid in kills.of_children if pid in last}
        self.rows: dict[str, Row] = defaultdict(Row)
        self.spans, self.events = Balance(), Balance()
        self._task_log = task_log
        self._by_address: dict[Address, list[ReceivedSpan]] = defaultdict(list)
        for span in arrived.spans:
            self._by_address[span.trace_id, span.span_id].append(span)
        self._run_spans = [
            same for same in self._by_address.values() if same[0].name.startswith(semconv.RUN_SPAN)
        ]
        self._arrived = arrived
        self._events = Counter(trace_of(event) for event in arrived.events)
        self._tagged = {trace_of(event): tags(event) for event in arrived.events}
        self._judge_spans()
        self._judge_runs()
        self._judge_deliveries(log)
        self._judge_events()
        self._judge_captured()
        self._balance(counted)

    @property
    def good(self) -> bool:
        """Whether all that was wanted arrived once, or was counted as dropped."""
        return all(row.good for row in self.rows.values())

    def complaints(self, shown: int = SHOWN) -> str:
        """Name the first of each kind that did not arrive as wanted."""
        lines: list[str] = []
        for name, row in self.rows.items():
            if not row.good:
                lines += [f"{name}: {complaint}" for complaint in row.complaints[:shown]]
        return "\n".join(lines)

    # Spans.

    def _judge_spans(self) -> None:
        ended, cut = self.rows["spans that had ended"], self.rows["spans left open"]
        for address, span in self._task_log.spans.items():
            found = self._by_address.get(address, [])
            lost = bool(found) and bool(found[0].attributes.get(semconv.TASKOBS_LOST))
            right = not lost and _is_whole(found, span.size) if span.ended else lost or span.ending
            row = ended if span.ended else cut
            self._count_span(row, address, span, right=right)
        published = self.rows["spans of publishes"]
        for address, span in self._task_log.publishes.items():
            self._count_span(published, address, span, right=True)

    def _count_span(self, row: Row, address: Address, span: Span, *, right: bool) -> None:
        number = len(self._by_address.get(address, ()))
        row.count(number, right=right, what=(*address, span))
        self.spans.missing += number == 0

    def _judge_runs(self) -> None:
        every, killed = self.rows["runs"], self.rows["killed runs, as lost"]
        parents = self.rows["what runs hang on"]
        for address, run in self._task_log.runs.items():
            found = self._by_address.get(address, [])
            every.count(len(found), what=(*address, run))
            if run.ending is None:
                lost = bool(found) and _outcome(found[0]) == "lost"
                killed.count(len(found), right=lost, what=(*address, run))
            if run.parent != "-":
                parent = self._by_address.get((address[0], run.parent), ())
                parents.count(len(parent), what=(*address, run))

    def _judge_deliveries(self, log: str) -> None:
        row = self.rows["deliveries with one run span each"]
        received = Counter(RECEIVED.findall(log))
        spans = Counter(_task_id(same[0]) for same in self._run_spans)
        for task_id, number in received.items():
            row.wanted += number
            row.once += min(number, spans[task_id])
            row.missing += max(0, number - spans[task_id])
            if number != spans[task_id]:
                row.complaints.append(f"{task_id}: {number} deliveries, {spans[task_id]} runs")
        for task_id, number in spans.items():
            if surplus := max(0, number - received[task_id]):
                row.wanted += surplus
                row.twice += surplus
        self.spans.missing += row.missing
        # Of those that the task_log doesn't know, the loss may have had an event.
        expected = sum(not self._by_address.get(address) for address in self._task_log.runs)
        self.events.unsure += max(0, row.missing - expected)

    # Events.

    def _judge_events(self) -> None:
        for address, run in self._task_log.runs.items():
            self._judge_events_of(address, run)
        seen = {*self._task_log.runs, *self._task_log.captured}
        lost, none = self.rows["events of lost runs"], self.rows["runs without an event"]
        for same in self._run_spans:  # killed before the task's first line
            key = (same[0].trace_id, same[0].span_id)
            if key not in seen and _outcome(same[0]) == "lost":
                seen.add(key)
                self._count_event(lost, self._events[key], key)
        for key in self._events.keys() - seen:
            if semconv.TAG_TASK_ID in self._tagged[key]:  # else it is of the worker itself
                none.count(2, what=(key, dict(self._tagged[key])))

    def _judge_events_of(self, address: Address, run: Run) -> None:
        failed, lost = self.rows["events of failures"], self.rows["events of lost runs"]
        none = self.rows["runs without an event"]
        found = self._by_address.get(address, [])
        outcome = _outcome(found[0]) if found else None
        number, what = self._events[address], (*address, run, outcome)
        # Killed when it had ended, and before the worker knew: to Celery it is lost, and that is
        # an event beside its own, if it had one.
        cut = run.ending is not None and (address in self._cut_short or outcome == "lost")
        if run.ending == "failing":
            self._count_event(failed, min(number, 1) if cut else number, what)
        elif run.ending is None or outcome == "lost":
            self._count_event(lost, number, what)
        elif cut:
            none.count(max(number, 1), what=what)
        elif found:  # a run without a span may have been lost at its end
            none.count(1 + number, what=what)  # none is what is wanted once
        self.events.unsure += cut

    def _count_event(self, row: Row, number: int, what: object) -> None:
        row.count(number, what=what)
        self.events.missing += number == 0

    def _judge_captured(self) -> None:
        row, ids = (
            self.rows["events with attachments"],
            Counter(e.event_id for e in self._arrived.events),
        )
        for address, one in self._task_log.captured.items():
            if not one.event_id:
                self.events.unsure += 1
                continue
            row.count(ids[one.event_id], what=(*address, one))
            self.events.missing += ids[one.event_id] == 0
        sizes = Counter(self._arrived.attachments)
        wanted = Counter(one.size for one in self._task_log.captured.values() if ids[one.event_id])
        if short := sum((wanted - sizes).values()):
            row.wrong += short
            row.once -= short
            row.complaints.append(f"{short} attachments did not arrive with their events")

    # What was dropped.

    def _balance(self, counted: Mapping[str, int]) -> None:
        self.spans.counted, self.events.counted = counted.get("span", 0), counted.get("envelope", 0)
        row = self.rows[DROPPED]
        for name, balance in (("spans", self.spans), ("events", self.events)):
            row.wanted += balance.missing
            row.once += min(balance.counted, balance.missing) if balance.missing else 0
            if not balance.good:
                row.wrong += max(1, balance.counted - balance.missing)
                row.complaints.append(f"{name}: {balance}")
        others = {kind: n for kind, n in counted.items() if kind not in {"span", "envelope"}}
        if others:
            row.wrong += sum(others.values())
            row.complaints.append(f"neither spans nor events: {others}")
        for other in self.rows.values() if not row.complaints else ():
            if other is not row:
                other.forgive()


def _is_whole(found: Sequence[ReceivedSpan], size: int) -> bool:
    return not size or all(len(str(one.attributes.get("payload"))) == size for one in found)


def _outcome(span: ReceivedSpan) -> object:
    return span.attributes.get(semconv.CELERY_OUTCOME)


def _task_id(span: ReceivedSpan) -> str:
    return str(span.attributes.get(semconv.MESSAGING_MESSAGE_ID))
