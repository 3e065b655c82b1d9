"""The record of a run, and what belongs to it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import NamedTuple, Protocol

from taskobs.model.messages import Broker, ContextValues, TaskMessage


class Outcome(str, Enum):
    """How a run ended."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    RETRIED = "retried"
    REJECTED = "rejected"
    IGNORED = "ignored"
    REVOKED = "revoked"
    EXPIRED = "expired"
    LOST = "lost"
    UNKNOWN = "unknown"


class ChordLinkStore(Protocol):
    """Where the runs of a chord's header save their span's address for the chord's callback."""

    def belongs_to(self, task_id: str) -> bool:
        """Tell whether ``task_id`` is the chord's callback, or begins it."""
        ...

    def save(self, address: str) -> None:
        """Save the address of this run's span (a ``traceparent``)."""

    def load(self) -> Sequence[str]:
        """Return the addresses of all the header's runs, in the header's order."""
        ...


class SpanAddress(NamedTuple):
    """The ids of a span, written as text when they are asked for."""

    trace: int
    span: int
    sampled: bool

    @property
    def trace_id(self) -> str:
        """The id of the trace, as logs and Sentry show it: lower-case hex."""
        return f"{self.trace:032x}"

    @property
    def span_id(self) -> str:
        """The id of the span, as logs and Sentry show it: lower-case hex."""
        return f"{self.span:016x}"

    @property
    def traceparent(self) -> str:
        """The address as one string.

        https://www.w3.org/TR/trace-context/#traceparent-header
        """
        return f"00-{self.trace_id}-{self.span_id}-{self.sampled:02x}"


class DeadLetter(NamedTuple):
    """Where a message was a dead letter last."""

    queue: str
    reason: str
    times: int


@dataclass(slots=True, kw_only=True, eq=False)
class Route:
    """How messages of one task come to this process: what their runs have in common."""

    task: Callable[[], object]
    """Returns the task, or None if it is gone."""
    exchange: str
    routing_key: str | None
    priority: int | None
    redelivered: bool
    queue: str | None
    broker: Broker
    stock: Mapping[str, object]
    """The attributes that the stock instrumentation would set on each of them."""
    described: object = None
    """What the spans observer keeps of them; its own."""


@dataclass(kw_only=True, eq=False, repr=False)
class Run(TaskMessage):
    """One attempt to execute a task."""

    route: Route | None = None
    """What it has in common with others; None if that is not known."""

    redelivered: bool = False
    delivery_count: int | None = None
    """How often the broker says that it has delivered the message before."""
    dead_letter: DeadLetter | None = None
    eager: bool = False
    hostname: str | None = None
    """The worker's node name, ``celery@host``."""
    origin: str | None = None
    """The producer's node name."""
    schedule_entry: str | None = None
    """The entry of beat's schedule that it runs for, as the message says."""
    queue_latency: float | None = None
    """Seconds from the publish (or the ETA, if later) to the start; None when not known."""
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    """The message's headers that are text of a sane length."""
    usual: bool = False
    """Whether it has a route, and no parent, group, ETA, expiry, context values, dead letter,
    delivery count, schedule entry or chord links: asked once for all that most runs don't have."""
    batch: Sequence[Mapping[str, str]] = ()
    """The headers of each message, for a run that is for several."""
    pid: int = 0
    """The process that the run is, or was, in."""
    began: float = 0.0
    """Seconds since the epoch: when the run was seen to begin."""
    started: float | None = None
    """The start of a run that is reported after its end, if it is known; None means ``began``."""
    args: Sequence[object] = ()
    kwargs: Mapping[str, object] = field(default_factory=dict[str, object])
    chord_links: ChordLinkStore | None = None
    """Set on the runs of a chord's header."""

    ticks: float = field(default=0.0, init=False, compare=False)
    """The monotonic clock at ``began``; 0 for a run that this process has not begun."""

    # Set at the end of the run. They are no parameters: each one would cost every run as much
    # as a field that is used.
    outcome: Outcome | None = field(default=None, init=False)
    exception: BaseException | None = field(default=None, init=False)
    """What ended the run; for a retried run, what made it retry."""
    traceback: str | None = field(default=None, init=False)
    """The exception's, where Celery has written it already."""
    expected: bool = field(default=False, init=False)
    """True for an exception that the task lists in ``throws``."""
    reason: str | None = field(default=None, init=False)
    """Why it was retried, rejected or ignored."""
    requeued: bool = field(default=False, init=False)
    signal: str | None = field(default=None, init=False)
    """The signal that ended it, such as ``SIGKILL``."""
    exit_code: int | None = field(default=None, init=False)
    """The exit code of the process that died with it."""
    ran: bool = field(default=True, init=False)
    """False if it ended before it could begin: revoked, expired, lost or unknown."""
    abandoned: bool = field(default=False, init=False)
    """This process ends with the run; the worker's main process reports it."""

    # What one observer leaves for another.
    span: SpanAddress | None = field(default=None, init=False)
    """The run's span; set while spans are on, also when it is not sampled."""
    parent_span: object = field(default=None, init=False)
    """The context under which the next attempt is published; the spans observer's own."""
    event_id: str | None = field(default=None, init=False)
    """The Sentry event of this run's failure."""
    context_now: ContextValues | None = field(default=None, init=False)
    """The context values that were set last in the run; None if none were."""


@dataclass(slots=True, kw_only=True)
class ExternalOutcome:
    """How a run ended that could not report its end itself."""

    outcome: Outcome
    error: BaseException | None = None
    started: float | None = None
    """Seconds since the epoch; None for a run that never started."""
    pid: int | None = None
    signal: str | None = None
    exit_code: int | None = None
    reason: str | None = None
