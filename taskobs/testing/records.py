"""What a test gets: plain records of runs, publishes, events, log lines and metrics."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:  # decoding OTLP takes packages that only a test with the fixture needs
    from taskobs.testing.wire import ReceivedSpan

OutcomeName = Literal[
    "succeeded",
    "failed",
    "retried",
    "rejected",
    "ignored",
    "revoked",
    "expired",
    "lost",
    "unknown",
]
"""How a run ended. The same words as `taskobs.Outcome`."""
MetricKind = Literal["counter", "updown", "gauge", "histogram"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Raised:
    """An exception, as telemetry has it."""

    type: str
    """The full name of its class: ``ValueError``, ``shop.errors.Declined``."""
    message: str
    stacktrace: str = field(default="", repr=False)

    def __str__(self) -> str:
        return f"{self.type}: {self.message}" if self.message else self.type


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskRun:
    """One attempt to execute a task. Ids are in lower-case hex; times in seconds."""

    task: str
    inner_task: str | None = None
    """The task that ``celery.map``, ``celery.starmap`` or ``celery.chunks`` runs."""
    task_id: str
    outcome: OutcomeName
    attempt: int
    """1 for the first; a retry is a run of its own, with the next number."""
    exception: Raised | None = None
    """What ended it; for a retried run, why."""
    expected: bool = False
    """Whether the task lists the exception in ``throws``."""
    reason: str | None = None
    """Why it was retried, rejected or ignored."""
    eager: bool = False
    queue: str | None = None
    queue_latency: float | None = None
    """Seconds from the publish, or from the ETA if that is later, to the start."""
    duration: float
    event_id: str | None = None
    """The id of its Sentry event."""
    trace_id: str
    span_id: str
    parent_id: str
    attributes: Mapping[str, object] = field(repr=False)
    """All attributes of its span, also those that the app has set."""
    span: ReceivedSpan = field(repr=False)

    def __str__(self) -> str:
        parts = [f"run {self.task}: {self.outcome}", f"attempt {self.attempt}"]
        if self.eager:
            parts.append("eager")
        if self.exception is not None:
            parts.append(str(self.exception))
        elif self.reason:
            parts.append(self.reason)
        if self.event_id:
            parts.append("1 event")
        return ", ".join([*parts, f"id {self.task_id}"])


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskPublish:
    """One message handed to the broker."""

    task: str
    task_id: str
    queue: str | None = None
    eta: str | None = None
    attempt: int = 1
    error: Raised | None = None
    """Why the broker refused it."""
    trace_id: str
    span_id: str
    parent_id: str
    attributes: Mapping[str, object] = field(repr=False)
    span: ReceivedSpan = field(repr=False)

    def __str__(self) -> str:
        queue = f" to {self.queue}" if self.queue else ""
        error = f", refused: {self.error}" if self.error else ""
        return f"publish {self.task}{queue}, id {self.task_id}{error}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One Sentry event. What it has no field for is in ``data``, its JSON."""

    event_id: str
    exception: Raised | None = None
    """The outermost of its exceptions; its stack trace is in ``data``."""
    message: str | None = None
    level: str = "error"
    task: str | None = None
    task_id: str | None = None
    tags: Mapping[str, str] = field(default_factory=dict[str, str])
    fingerprint: tuple[str, ...] = ()
    trace_id: str = ""
    span_id: str = ""
    data: Mapping[str, object] = field(repr=False)

    def __str__(self) -> str:
        what = str(self.exception or self.message or self.level)
        task = f" in {self.task}, id {self.task_id}" if self.task else " outside of tasks"
        return f"event {what}{task}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Log:
    """One log record, as it is sent with ``logs="otlp"``."""

    message: str
    level: str
    logger: str
    task: str | None = None
    task_id: str | None = None
    trace_id: str = ""
    span_id: str = ""
    attributes: Mapping[str, object] = field(repr=False)

    def __str__(self) -> str:
        task = f" (in {self.task}, id {self.task_id})" if self.task else ""
        return f"log {self.level} {self.logger}: {self.message}{task}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """One series of a metric: what it is since the test began."""

    name: str
    kind: MetricKind
    value: float
    """The sum of a counter, the value of a gauge, the sum of what a histogram has counted."""
    count: int
    """How many values a histogram has counted; 1 for others."""
    unit: str = ""
    attributes: Mapping[str, object] = field(default_factory=dict[str, object])

    def __str__(self) -> str:
        labels = ", ".join(f"{key}={value}" for key, value in sorted(self.attributes.items()))
        count = f" of {self.count}" if self.kind == "histogram" else ""
        return f"metric {self.name} {{{labels}}}: {self.value:g}{count}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """All that shares a trace id, each in the order in which it started."""

    trace_id: str
    spans: tuple[ReceivedSpan, ...] = field(repr=False)
    publishes: tuple[TaskPublish, ...]
    runs: tuple[TaskRun, ...]
    events: tuple[Event, ...]
    logs: tuple[Log, ...] = field(repr=False)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of its spans."""
        return tuple(span.name for span in self.spans)

    @property
    def tree(self) -> str:
        """Its spans, one a line, each indented below its parent by two spaces."""
        ids = {span.span_id for span in self.spans}
        lines: list[str] = []

        def add(parent: str, depth: int) -> None:
            for span in self.spans:
                if (span.parent_id if span.parent_id in ids else "") == parent:
                    lines.append("  " * depth + span.name)
                    add(span.span_id, depth + 1)

        add("", 0)
        return "\n".join(lines)

    def __str__(self) -> str:
        return f"trace {self.trace_id}:\n{self.tree}"
