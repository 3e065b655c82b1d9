"""What a test asks for among what was recorded, and the errors where that is not there."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Final, Protocol, TypeVar

from taskobs.testing.failures import AmbiguousError, NotRecordedError, UnexpectedTelemetryError
from taskobs.testing.reading import event_of, log_of, publishes_of, runs_of
from taskobs.testing.records import Event, Log, Metric, TaskPublish, TaskRun
from taskobs.testing.report import listed, nearest

if TYPE_CHECKING:
    from taskobs.testing.recording import Recording
    from taskobs.testing.wire import ReceivedSpan

_LOST: Final = frozenset({"lost", "unknown"})
T = TypeVar("T")
Identified = TypeVar("Identified", TaskRun, Event)


class Source(Protocol):
    """Where a test's telemetry comes from."""

    recording: Recording

    @property
    def receives(self) -> bool:
        """Whether workers in other processes send what they record, each kind for itself."""
        ...

    def may_run(self) -> bool:
        """Tell whether there is a worker that may run what is pending."""
        ...

    def metrics(self) -> tuple[Metric, ...]:
        """Return what was measured since the test began."""
        ...

    def worker_environment(self, host: str) -> Mapping[str, str]:
        """Return variables that make a worker in another process send its telemetry here."""
        ...


class Findings:
    """Reads what a source has recorded, and notes what the test has asked for."""

    def __init__(self, source: Source, timeout: float) -> None:
        self.source = source
        self.recording = source.recording
        self.timeout = timeout
        self._seen: set[str] = set()
        """Ids of the events, and of the spans of runs, that the test has asked for."""

    # What there is.

    @property
    def spans(self) -> tuple[ReceivedSpan, ...]:
        """The spans."""
        return self.recording.spans

    @property
    def runs(self) -> tuple[TaskRun, ...]:
        """The runs."""
        return runs_of(self.recording.spans)

    @property
    def publishes(self) -> tuple[TaskPublish, ...]:
        """The publishes."""
        return publishes_of(self.recording.spans)

    @property
    def events(self) -> tuple[Event, ...]:
        """Sentry's events."""
        return tuple(map(event_of, self.recording.events))

    @property
    def logs(self) -> tuple[Log, ...]:
        """The log records."""
        return tuple(map(log_of, self.recording.logs))

    # What has not ended.

    def is_settled(self) -> bool:
        """Tell whether all has run that was published, and nothing runs."""
        return not self.recording.running and not self.recording.pending

    def settle(self) -> None:
        """Wait for what runs, and for what a worker may run yet."""
        waits_for, may_run = self.recording, self.source.may_run

        def done() -> bool:
            return not waits_for.running and not (waits_for.pending and may_run())

        self.recording.wait(done, self.timeout)

    def first(self, find: Callable[[], Sequence[T]]) -> Sequence[T]:
        """Return what ``find`` returns; where that is nothing yet, wait for what is received."""
        self.settle()
        found = find()
        if not found and self.source.receives:
            self.recording.wait(lambda: bool(find()), self.timeout)
            found = find()
        return found

    # What the test asks for.

    def asked_for(self, found: Iterable[Identified]) -> tuple[Identified, ...]:
        """Note that the test has asked for these, and return them."""
        kept = tuple(found)
        for one in kept:
            self._seen.add(one.span_id if isinstance(one, TaskRun) else one.event_id)
        return kept

    def unexpected(self) -> UnexpectedTelemetryError | None:
        """Return the failure of a strict test; None if it has asked for all.

        Who asks for a run has asked for its event, too.
        """
        runs = self.runs
        seen = {one.event_id for one in runs if one.span_id in self._seen} | self._seen
        lost = [one for one in runs if one.outcome in _LOST and one.span_id not in self._seen]
        events = [one for one in self.events if one.event_id not in seen]
        if not lost and not events:
            return None
        return UnexpectedTelemetryError(
            listed("the test did not ask for", [*events, *lost])
            + "\nAsk for them, for example with run(), event() or events."
        )

    def only(self, what: str, found: Sequence[T], task: str | None, distinguish: str) -> T:
        """Return the only one that was found; ``distinguish`` says how to ask for one of several.

        Raises:
            NotRecordedError: there is none.
            AmbiguousError: there are several.
        """
        __tracebackhide__ = True
        if len(found) == 1:
            return found[0]
        if found:
            raise AmbiguousError(
                listed(f"there is not one {what}, but {len(found)}", found)
                + f"\nSay which by {distinguish}, or ask for all."
            )
        raise NotRecordedError(f"there is no {what}.{self._hint(task)}\n{self._all(what)}")

    def _hint(self, task: str | None) -> str:
        if task is None:
            return ""
        runs = [one.task for one in self.runs]
        return nearest(task, [*runs, *(one.task for one in self.publishes)])

    def _all(self, what: str) -> str:
        """Return what there is of the kind that was asked for, or all that tasks have left."""
        kinds: dict[str, Callable[[], Iterable[object]]] = {
            "log": lambda: self.logs,
            "metric": self.source.metrics,
            "span": lambda: (f"span {one.name}" for one in self.spans),
        }
        kind = what.partition(" ")[0]
        return listed(f"{kind}s", kinds[kind]()) if kind in kinds else self.report()

    def report(self) -> str:
        """Return all runs, publishes and events, one a line, and what is still to come."""
        kinds = (("runs", self.runs), ("publishes", self.publishes), ("events", self.events))
        waits_for = self.recording
        earlier = "runs that are left out, as they were published before the fixture was set up"
        more = (
            ("running now", waits_for.running),
            (f"published, and not run within {self.timeout:g} s", waits_for.pending),
            (earlier, waits_for.earlier_runs),
            ("runs that a rule or untraced() leaves out, not sampled", waits_for.unsampled_runs),
        )
        lines = [listed(title, found) for title, found in kinds]
        return "\n".join([*lines, *(listed(title, found) for title, found in more if found)])
