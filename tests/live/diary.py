"""What tasks wrote down of themselves, held against what arrived."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from taskobs import semconv
from tests.live.shop import tags, trace_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from taskobs.testing.wire import ReceivedEvent, ReceivedSpan

Address = tuple[str, str]
"""Trace id and span id, in hex."""
RECEIVED = re.compile(r"Task \S+\[(\S+)\] received")
WINDOW = 1.0
"""Seconds in which the relay, on a busy machine, may not have read and kept what was written.

If it is killed within these, a process that lives on sends it again, and one that is killed as
well, before it sends anything, takes it along.
"""
SHOWN = 5
"""Complaints of a kind that a report shows."""


@dataclass
class Span:
    """A span inside a run: how far it came before its process ended."""

    pid: int
    last: float
    """When it was last written of, in seconds since the epoch."""
    ending: bool = False
    ended: bool = False


@dataclass
class Run:
    """A run whose task began; ``ending`` is None where its body did not come to an end."""

    pid: int
    last: float
    """When it was last written of, in seconds since the epoch."""
    task_id: str
    task: str
    parent: str
    ending: str | None = None


@dataclass
class Diary:
    """All that the tasks wrote."""

    runs: dict[Address, Run] = field(default_factory=dict[Address, Run])
    spans: dict[Address, Span] = field(default_factory=dict[Address, Span])

    @classmethod
    def read(cls, file: Path) -> Diary:
        """Read a diary that may still be written to."""
        diary = cls()
        text = file.read_text() if file.exists() else ""
        for line in text[: text.rfind("\n") + 1].splitlines():
            what, pid, when, trace_id, span_id, *more = line.split()
            diary.note(what, int(pid), float(when), (trace_id, span_id), more)
        return diary

    def note(self, what: str, pid: int, when: float, address: Address, more: Sequence[str]) -> None:
        """Take one line."""
        if what == "run":
            self.runs[address] = Run(pid, when, *more)
        elif what == "start":
            self.spans[address] = Span(pid, when)
        elif what in ("ending", "end"):
            span = self.spans[address]
            span.ending, span.ended, span.last = True, what == "end", when
        else:
            run = self.runs[address]
            run.ending, run.last = what, when

    def busy(self, before: float) -> set[int]:
        """Give the processes, dead ones too, that are in a run which began before that time."""
        return {run.pid for run in self.runs.values() if run.ending is None and run.last < before}


@dataclass
class Row:
    """One kind of thing that must have arrived once each."""

    wanted: int = 0
    once: int = 0
    missing: int = 0
    twice: int = 0
    wrong: int = 0
    """Arrived once, and says something else than the diary."""
    excused: int = 0
    """Of a process that was killed, written in the moment before the relay was: see `WINDOW`."""
    complaints: list[str] = field(default_factory=list[str])

    @property
    def good(self) -> bool:
        """Whether each arrived once and is right, or is excused."""
        return self.once + self.excused == self.wanted

    def count(
        self, arrived: int, *, right: bool = True, what: object = "", excused: bool = False
    ) -> None:
        """Take one that was wanted, and which arrived so many times."""
        self.wanted += 1
        if arrived == 1 and right:
            self.once += 1
            return
        if excused and arrived < 2:  # nothing excuses what comes twice
            self.excused += 1
            return
        self.missing += arrived == 0
        self.twice += arrived > 1
        self.wrong += arrived == 1
        self.complaints.append(f"{what}: arrived {arrived} times")

    def __str__(self) -> str:
        """Say it in a few words."""
        numbers = {"missing": self.missing, "twice": self.twice, "wrong": self.wrong}
        numbers["in the window"] = self.excused
        bad = [f"{number} {name}" for name, number in numbers.items() if number]
        return ", ".join([f"{self.once} of {self.wanted}", *bad])


@dataclass(frozen=True)
class Kills:
    """Who was killed."""

    of_children: frozenset[int] = frozenset()
    """Their process ids."""
    of_relays: tuple[float, ...] = ()
    """When, in seconds since the epoch."""


class Finding:
    """What arrived, held against a diary and the worker's log."""

    def __init__(
        self,
        diary: Diary,
        spans: Sequence[ReceivedSpan],
        events: Sequence[ReceivedEvent],
        log: str,
        kills: Kills,
    ) -> None:
        self._relay_kills = kills.of_relays
        last = {run.pid: address for address, run in diary.runs.items()}
        self._cut_short = {last[pid] for pid in kills.of_children if pid in last}
        self._killed = {run.pid for run in diary.runs.values() if run.ending is None}
        self.rows: dict[str, Row] = defaultdict(Row)
        self._diary = diary
        self._by_address: dict[Address, list[ReceivedSpan]] = defaultdict(list)
        for span in spans:
            self._by_address[span.trace_id, span.span_id].append(span)
        self._run_spans = [
            same for same in self._by_address.values() if same[0].name.startswith(semconv.RUN_SPAN)
        ]
        self._events = Counter(trace_of(event) for event in events)
        self._tagged = {trace_of(event): tags(event) for event in events}
        self._judge_spans()
        self._judge_runs()
        self._judge_deliveries(log)
        self._judge_events()

    @property
    def good(self) -> bool:
        """Whether all that was wanted arrived once."""
        return all(row.good for row in self.rows.values())

    def complaints(self, shown: int = SHOWN) -> str:
        """Name the first of each kind that did not arrive as wanted."""
        lines: list[str] = []
        for name, row in self.rows.items():
            lines += [f"{name}: {complaint}" for complaint in row.complaints[:shown]]
        return "\n".join(lines)

    def _excused(self, one: Span | Run) -> bool:
        return one.pid in self._killed and any(
            kill - WINDOW <= one.last <= kill for kill in self._relay_kills
        )

    def _judge_spans(self) -> None:
        ended, cut = self.rows["spans that had ended"], self.rows["spans left open"]
        for address, span in self._diary.spans.items():
            found = self._by_address.get(address, [])
            lost = bool(found) and bool(found[0].attributes.get(semconv.TASKOBS_LOST))
            what = (*address, span)
            if span.ended:
                ended.count(len(found), right=not lost, what=what, excused=self._excused(span))
            else:
                right = lost or span.ending
                cut.count(len(found), right=right, what=what, excused=self._excused(span))

    def _judge_runs(self) -> None:
        every, killed = self.rows["runs"], self.rows["killed runs, as lost"]
        parents = self.rows["what runs hang on"]
        for address, run in self._diary.runs.items():
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

    def _judge_events(self) -> None:
        for address, run in self._diary.runs.items():
            self._judge_events_of(address, run)
        seen = set(self._diary.runs)
        lost, calm = self.rows["events of lost runs"], self.rows["runs without an event"]
        for same in self._run_spans:  # killed before the task's first line
            key = (same[0].trace_id, same[0].span_id)
            if key not in seen and _outcome(same[0]) == "lost":
                seen.add(key)
                lost.count(self._events[key], what=key)
        for key in self._events.keys() - seen:
            if semconv.TAG_TASK_ID in self._tagged[key]:  # else it is of the worker itself
                calm.count(2, what=(key, dict(self._tagged[key])))

    def _judge_events_of(self, address: Address, run: Run) -> None:
        failed, lost = self.rows["events of failures"], self.rows["events of lost runs"]
        calm = self.rows["runs without an event"]
        found = self._by_address.get(address, [])
        outcome = _outcome(found[0]) if found else None
        number, what = self._events[address], (*address, run, outcome)
        # Killed when it had ended, and before the worker knew: to Celery it is lost, and that is
        # an event beside its own, if it had one.
        cut = run.ending is not None and (address in self._cut_short or outcome == "lost")
        if run.ending == "failing":
            failed.count(min(number, 1) if cut else number, what=what)
        elif run.ending is None or outcome == "lost":
            lost.count(number, what=what)
        elif cut:
            calm.count(max(number, 1), what=what)
        elif found:  # a run without a span may have been lost at its end
            calm.count(1 + number, what=what)  # none is what is wanted once


def _outcome(span: ReceivedSpan) -> object:
    return span.attributes.get(semconv.CELERY_OUTCOME)


def _task_id(span: ReceivedSpan) -> str:
    return str(span.attributes.get(semconv.MESSAGING_MESSAGE_ID))


def table(columns: Mapping[str, Finding]) -> str:
    """Write verdicts beside each other, as a Markdown table."""
    rows: Iterable[str] = dict.fromkeys(row for finding in columns.values() for row in finding.rows)
    lines = [f"| | {' | '.join(columns)} |", "|---" * (1 + len(columns)) + "|"]
    for row in rows:
        cells = (str(finding.rows[row]) for finding in columns.values())
        lines.append(f"| {row} | {' | '.join(cells)} |")
    return "\n".join(lines)
