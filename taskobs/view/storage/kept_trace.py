"""One trace as it is kept: its records, and what the list and the search say of it."""

from __future__ import annotations

from collections import Counter, OrderedDict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from taskobs import semconv
from taskobs.view.storage.masking import masked_text
from taskobs.view.traces import NS_PER_SECOND, Node

if TYPE_CHECKING:
    from taskobs.testing.wire import ReceivedLog, ReceivedSpan
    from taskobs.view.issues import Issue
    from taskobs.view.storage.records import Record

RECORD_COST: Final = 500
"""Bytes that Python needs for a record beside its text and its key: measured, and rounded up."""
TRACE_COST: Final = 4_000
WORD_COST: Final = 150
SPARE_WORDS: Final = 50
"""Beside one a record, what the search looks at of a trace that has dropped records."""
MAX_NAMES: Final = 100
SHOWN_NAMES: Final = 12
"""Names of tasks that the list has of one trace."""
ANY_RUN: Final = "run"
ANY_ERROR: Final = "event"
"""What the search can ask for beside an outcome: keys of ``counts``."""
LONGEST: Final = 300
"""Characters of a name in the list and in the search."""


@dataclass(slots=True)
class KeptTrace:
    """A trace. Not thread-safe."""

    trace_id: str
    number: int
    """The traces in the order of their first record."""
    revision: int = 0
    """Of its last change; higher than that of every change before."""
    size: int = TRACE_COST
    """Bytes that it takes, by estimate."""
    dropped: int = 0
    """Records that it no longer has, as it took more than its share."""
    records: OrderedDict[str, Record] = field(default_factory=OrderedDict["str", "Record"])
    title: str = ""
    start_ns: int = 0
    end_ns: int = 0
    queue_latency: float | None = None
    counts: Counter[str] = field(default_factory=Counter[str])
    outcomes: Counter[str] = field(default_factory=Counter[str])
    tasks: Counter[str] = field(default_factory=Counter[str])
    services: Counter[str] = field(default_factory=Counter[str])
    words: OrderedDict[str, None] = field(default_factory=OrderedDict["str", None])
    """What the search looks at: names and ids in lower case."""
    _has_root: bool = False

    def add(self, record: Record) -> bool:
        """Keep a record; False if it is there already."""
        if record.key in self.records:
            return False
        self.records[record.key] = record
        self.size += _cost(record)
        self.counts[record.kind] += 1
        return True

    def drop_oldest(self) -> None:
        """Forget the record that came first."""
        _, record = self.records.popitem(last=False)
        self.size -= _cost(record)
        self.dropped += 1
        self._drop_words(len(self.records) + SPARE_WORDS)

    def describe_span(self, span: ReceivedSpan) -> None:
        """Take a span into what the list says."""
        self._title_by(span)
        self.start_ns = min(self.start_ns or span.start_ns, span.start_ns)
        self.end_ns = max(self.end_ns, span.end_ns)
        self._add_words(span.name, span.attributes.get(semconv.CELERY_TASK_ID))
        _count(self.services, short(span.resource.get("service.name")))
        node = Node(span)
        if node.role == "run":
            self._describe_run(node)

    def _title_by(self, span: ReceivedSpan) -> None:
        """Name the trace by its root, or until that arrives by the span that began first."""
        first = not self.start_ns or span.start_ns < self.start_ns
        if not self._has_root and (first or not span.parent_id):
            self.title = short(span.name)
        self._has_root = self._has_root or not span.parent_id

    def _describe_run(self, node: Node) -> None:
        self.counts["run"] += 1
        _count(self.outcomes, short(node.outcome))
        _count(self.tasks, short(node.span.name.removeprefix(semconv.RUN_SPAN)))
        if node.queue_latency is not None:
            self.queue_latency = max(self.queue_latency or 0.0, node.queue_latency)

    def describe_event(self, issue: Issue) -> None:
        """Take a Sentry event into what the list says."""
        self.title = self.title or issue.title
        self._add_words(issue.title, issue.event_id)

    def describe_log(self, log: ReceivedLog) -> None:
        """Take a log record into what the list says."""
        self._add_words(log.attributes.get(semconv.LOG_TASK_ID))
        if not self.start_ns:
            self.end_ns = max(self.end_ns, log.time_ns or log.observed_ns)

    def _add_words(self, *texts: object) -> None:
        for text in texts:
            word = short(text).lower()
            if word in self.words:
                self.words.move_to_end(word)
            elif word:
                self.words[word] = None
                self.size += WORD_COST + len(word)

    def _drop_words(self, most: int) -> None:
        """Forget those that came last the longest ago: they were of records that are dropped."""
        while len(self.words) > most:
            word, _ = self.words.popitem(last=False)
            self.size -= WORD_COST + len(word)

    def matches(self, text: str, kind: str) -> bool:
        """Tell whether the search finds it: a part of a name, or of an id; and what it must have.

        That is an outcome of a run, or `ANY_RUN`, or `ANY_ERROR`; empty for anything.
        """
        has = self.counts[kind] if kind in {ANY_RUN, ANY_ERROR} else self.outcomes[kind]
        if kind and not has:
            return False
        wanted = text.strip().lower()
        return wanted in self.trace_id or any(wanted in word for word in self.words)

    def summary(self) -> dict[str, object]:
        """Return what the list shows, as JSON."""
        return {
            "trace_id": self.trace_id,
            "number": self.number,
            "revision": self.revision,
            "title": self.title,
            "start": (self.start_ns or self.end_ns) / NS_PER_SECOND,
            "seconds": (self.end_ns - (self.start_ns or self.end_ns)) / NS_PER_SECOND,
            "queue_latency": self.queue_latency,
            "counts": dict(self.counts),
            "outcomes": dict(self.outcomes),
            "tasks": dict(self.tasks.most_common(SHOWN_NAMES)),
            "services": sorted(filter(None, self.services)),
            "dropped": self.dropped,
        }


def _count(counter: Counter[str], name: str) -> None:
    if name in counter or len(counter) < MAX_NAMES:
        counter[name] += 1


def short(text: object) -> str:
    """Return a name for the list, without secrets and not too long."""
    return masked_text(str(text or ""))[:LONGEST]


def _cost(record: Record) -> int:
    return RECORD_COST + len(record.body) + len(record.key)
