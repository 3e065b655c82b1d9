"""The telemetry of one test: `Telemetry`, which the fixture ``taskobs_telemetry`` gives."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final, Protocol

from taskobs.testing.criteria import checked_outcome, checked_task
from taskobs.testing.failures import NotRecordedError, NotSettledError
from taskobs.testing.findings import Findings, Source
from taskobs.testing.reading import publishes_of, runs_of
from taskobs.testing.records import Event, Log, Metric, OutcomeName, TaskPublish, TaskRun, Trace
from taskobs.testing.report import described

if TYPE_CHECKING:
    from taskobs.testing.wire import ReceivedSpan

TIMEOUT: Final = 5.0
"""Seconds that a test waits for tasks that it has published."""


class HasId(Protocol):
    """A result of Celery's: what ``delay()``, ``apply_async()`` and ``apply()`` return."""

    id: str


class Telemetry:
    """What was recorded since the test began.

    Each method waits, at most ``timeout`` seconds, until the runs have ended that the test is the
    cause of, where there is a worker to run them. A method for one record that finds none, or
    several, raises an ``AssertionError`` that lists what there is.
    """

    def __init__(self, source: Source, *, timeout: float = TIMEOUT) -> None:
        self._found = Findings(source, timeout)

    # All of a kind.

    @property
    def spans(self) -> tuple[ReceivedSpan, ...]:
        """All spans, in the order in which they started."""
        return self._settled().spans

    @property
    def events(self) -> tuple[Event, ...]:
        """All Sentry events."""
        return self._found.asked_for(self._settled().events)

    @property
    def logs(self) -> tuple[Log, ...]:
        """All log records that the loggers' levels let pass, in tasks and outside of them."""
        return self._settled().logs

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """All series of what was measured."""
        return self._settled().source.metrics()

    def runs(
        self, task: str | None = None, *, outcome: OutcomeName | None = None
    ) -> tuple[TaskRun, ...]:
        """Return the runs, of a task or of all, in the order in which they started."""
        self._found.settle()
        return self._found.asked_for(self._runs(task, outcome=outcome))

    def publishes(self, task: str | None = None) -> tuple[TaskPublish, ...]:
        """Return the publishes, of a task or of all; does not wait for their runs."""
        wanted = checked_task(task)
        return tuple(one for one in self._found.publishes if wanted in {None, one.task})

    # One of a kind.

    def run(
        self,
        task: str | None = None,
        *,
        outcome: OutcomeName | None = None,
        attempt: int | None = None,
        task_id: str | None = None,
    ) -> TaskRun:
        """Return the only run of a task, with that outcome, attempt or id.

        Raises:
            NotRecordedError: there is none.
            AmbiguousError: there are several.
        """
        __tracebackhide__ = True
        wanted = {"outcome": outcome, "attempt": attempt, "task_id": task_id}
        found = self._found.first(
            lambda: self._runs(task, outcome=outcome, attempt=attempt, task_id=task_id)
        )
        what = described("run", task, wanted)
        only = self._found.only(what, found, task, "outcome, attempt or task_id")
        return self._found.asked_for([only])[0]

    def publish(self, task: str | None = None, *, task_id: str | None = None) -> TaskPublish:
        """Return the only publish of a task, or the one with that id; does not wait for its run.

        Raises:
            NotRecordedError: there is none.
            AmbiguousError: there are several.
        """
        __tracebackhide__ = True
        found = [one for one in self.publishes(task) if task_id in {None, one.task_id}]
        what = described("publish", task, {"task_id": task_id})
        return self._found.only(what, found, task, "task_id")

    def event(self, task: str | None = None, *, exception: str | None = None) -> Event:
        """Return the only Sentry event, of a task or with that type of exception.

        Raises:
            NotRecordedError: there is none.
            AmbiguousError: there are several.
        """
        __tracebackhide__ = True
        checked_task(task)

        def find() -> list[Event]:
            found = [one for one in self._found.events if task in {None, one.task}]
            return [one for one in found if exception is None or _is_of(one, exception)]

        found = self._found.first(find)
        what = described("event", task, {"exception": exception})
        return self._found.asked_for([self._found.only(what, found, task, "task or exception")])[0]

    def log(self, text: str, *, level: str | None = None) -> Log:
        """Return the only log record whose message contains a text.

        Raises:
            NotRecordedError: there is none.
            AmbiguousError: there are several.
        """
        __tracebackhide__ = True

        def find() -> list[Log]:
            found = [one for one in self._found.logs if text in one.message]
            return [one for one in found if level in {None, one.level}]

        found = self._found.first(find)
        what = described("log", None, {"text": text, "level": level})
        return self._found.only(what, found, None, "more of its text, or level")

    def metric(self, name: str, attributes: Mapping[str, object] | None = None) -> Metric:
        """Return the only series of a metric that has these attributes, and maybe more.

        Raises:
            NotRecordedError: there is none.
            AmbiguousError: there are several.
        """
        __tracebackhide__ = True
        wanted = attributes or {}
        found = [one for one in self.metrics if one.name == name and _has(one, wanted)]
        what = described("metric", name, wanted)
        return self._found.only(what, found, None, "attributes")

    def span(self, name: str) -> ReceivedSpan:
        """Return the only span with a name.

        Raises:
            NotRecordedError: there is none.
            AmbiguousError: there are several.
        """
        __tracebackhide__ = True
        found = self._found.first(lambda: [one for one in self._found.spans if one.name == name])
        return self._found.only(described("span", name, {}), found, None, "its trace")

    def trace_of(
        self, what: TaskRun | TaskPublish | Event | Log | ReceivedSpan | HasId | str
    ) -> Trace:
        """Return all that shares the trace of a record, of a result of Celery's, or a trace id.

        Raises:
            NotRecordedError: there is no such trace.
        """
        __tracebackhide__ = True
        found = self._settled()
        trace_id = self._trace_id(what)
        spans = tuple(one for one in found.spans if one.trace_id == trace_id)
        if not spans:
            raise NotRecordedError(f"there is no trace of {what}\n{found.report()}")
        return Trace(
            trace_id=trace_id,
            spans=spans,
            publishes=publishes_of(spans),
            runs=found.asked_for(runs_of(spans)),
            events=found.asked_for(one for one in found.events if one.trace_id == trace_id),
            logs=tuple(one for one in found.logs if one.trace_id == trace_id),
        )

    def _trace_id(
        self, what: TaskRun | TaskPublish | Event | Log | ReceivedSpan | HasId | str
    ) -> str:
        if isinstance(what, str):
            return what
        found: object = getattr(what, "trace_id", None)
        if isinstance(found, str):
            return found
        task_id: object = getattr(what, "id", None)
        of_task = [one.trace_id for one in self._found.runs if one.task_id == task_id]
        of_task += [one.trace_id for one in self._found.publishes if one.task_id == task_id]
        return of_task[0] if of_task else ""

    # The whole.

    def wait(self, timeout: float | None = None) -> None:
        """Wait until all that the test has published has run, and nothing runs.

        Raises:
            NotSettledError: that takes longer than ``timeout`` seconds.
        """
        __tracebackhide__ = True
        limit = self._found.timeout if timeout is None else timeout
        if not self._found.recording.wait(self._found.is_settled, limit):
            report = self._found.report()
            raise NotSettledError(f"not all tasks have ended within {limit:g} s\n{report}")

    def clear(self) -> None:
        """Forget what was recorded so far, but for metrics, once nothing runs any more."""
        self._settled().recording.clear()

    def check_all_asked_for(self) -> None:
        """Fail if there are Sentry events or lost runs that the test has not asked for.

        Raises:
            UnexpectedTelemetryError: there are some.
        """
        __tracebackhide__ = True
        error = self._settled().unexpected()
        if error is not None:
            raise error

    def report(self) -> str:
        """Return all runs, publishes and events, one a line: what messages of failures show."""
        return self._settled().report()

    def worker_environment(self, host: str = "127.0.0.1") -> dict[str, str]:
        """Return variables for a worker in another process, which then sends its telemetry here.

        The first call starts a receiver, which listens on a port of ``host``: an address of this
        machine that the worker reaches.
        """
        return dict(self._found.source.worker_environment(host))

    def __repr__(self) -> str:
        found = self._found
        counts = f"{len(found.runs)} runs, {len(found.spans)} spans, {len(found.events)} events"
        return f"<taskobs.testing.Telemetry: {counts}>"

    def _settled(self) -> Findings:
        self._found.settle()
        return self._found

    def _runs(
        self,
        task: str | None = None,
        *,
        outcome: OutcomeName | None = None,
        attempt: int | None = None,
        task_id: str | None = None,
    ) -> tuple[TaskRun, ...]:
        checked_task(task)
        checked_outcome(outcome)
        return tuple(
            one
            for one in self._found.runs
            if task in {None, one.task, one.inner_task}
            and outcome in {None, one.outcome}
            and attempt in {None, one.attempt}
            and task_id in {None, one.task_id}
        )


def _is_of(event: Event, exception: str) -> bool:
    if event.exception is None:
        return False
    return exception in {event.exception.type, event.exception.type.rpartition(".")[2]}


def _has(metric: Metric, wanted: Mapping[str, object]) -> bool:
    found = metric.attributes
    return all(name in found and found[name] == value for name, value in wanted.items())
