"""Failed runs as Sentry events, each run in scopes of its own, with its trace in the messages."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any, Final, Protocol

from sentry_sdk.client import BaseClient

from taskobs.model import Publish, Run
from taskobs.observers.base import NOTHING, Observer
from taskobs.observers.sentry import trace as sentry_trace
from taskobs.observers.sentry.event_rule import EventRule
from taskobs.observers.sentry.reported import ReportedFailures
from taskobs.observers.sentry.run_events import RunEvents, active

_DEFAULT: Final = EventRule()
Suppressed = Callable[[Mapping[str, object], Mapping[str, Any]], bool]


class Pipeline(Protocol):
    """Sends the events of this process."""

    def client(self) -> BaseClient | None:
        """Return the client in use, None if there is none."""

    def suppress(self, suppressed: Suppressed) -> object:
        """Drop the events outside of runs for which this function returns true."""


class SentryObserver(Observer):
    """Captures each failed run once, and keeps the runs of a process apart in Sentry.

    A run that succeeds costs two objects that stand for forks of Sentry's scopes; tags, context
    and arguments are worked out when an event is captured. ``rule`` holds for all tasks;
    ``by_task`` has the rule of each task, where they differ.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        rule: EventRule = _DEFAULT,
        by_task: Mapping[str, EventRule] | None = None,
    ) -> None:
        self._pipeline, self._rule, self._by_task = pipeline, rule, by_task
        self._reported = ReportedFailures()
        pipeline.suppress(self._reported.covers)

    def sending(self, publish: Publish) -> None:
        """Write Sentry's trace into the message; adopt a client that the app has made meanwhile."""
        if self._pipeline.client() is not None:
            sentry_trace.write(publish)

    def run(self, run: Run) -> AbstractContextManager[object]:
        """Open an isolation scope: what the run sets, leaves and captures stays its own."""
        if self._pipeline.client() is None:
            return NOTHING
        return RunEvents(run, self._rule if self._by_task is None else self._by_task[run.task])

    def failed(self, run: Run) -> None:
        """Capture the run's exception, once, and leave the event's id in ``run.event_id``."""
        client = self._pipeline.client()
        if client is None or run.exception is None:
            return
        rule = self._rule if self._by_task is None else self._by_task[run.task]
        found = active.get()
        events = found if found is not None and found.run is run else None
        if not rule.errors:
            if events is not None:
                events.leave_out(run.exception)
        elif events is None:
            with RunEvents(run, rule) as events:
                run.event_id = events.capture(client, run.exception)
        elif events.failure is run.exception:
            run.event_id = run.event_id or events.failure_id
        else:
            run.event_id = events.capture(client, run.exception)
        self._reported.add(run, run.exception)
