"""Failed runs as Sentry events; tags and context for whatever else a run sends to Sentry."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from contextlib import AbstractContextManager
from contextvars import ContextVar
from typing import Any, Final, Protocol, cast

import sentry_sdk
from sentry_sdk.client import BaseClient
from sentry_sdk.scope import Scope
from sentry_sdk.types import Event, Hint
from sentry_sdk.utils import current_stacktrace

from taskobs import semconv
from taskobs.model import Outcome, Publish, Run
from taskobs.observers import redact
from taskobs.observers.base import NOTHING, Observer
from taskobs.observers.events import event_of, settle
from taskobs.observers.scopes import fork

OPERATION: Final = "queue.task.celery"
"""Sentry's name for the run of a Celery task."""
SOFT_LIMIT: Final = "SoftTimeLimitExceeded"

_CONTEXT_FIELDS: Final = (
    *("parent_id", "group_id", "exchange", "routing_key", "eta", "expires", "priority"),
    *("redelivered", "eager", "origin", "queue_latency"),
)
_STACK_VARIABLES: Final = (
    "include_local_variables" in inspect.signature(current_stacktrace).parameters
)


class Clients(Protocol):
    """Knows the client of this process."""

    def client(self) -> BaseClient | None:
        """Return the client in use, None if there is none."""


class SentryObserver(Observer):
    """Captures each failed run once, and keeps the runs of a process apart in Sentry.

    A run that succeeds costs the fork of Sentry's two scopes; tags, context and arguments are
    worked out when an event is captured.
    """

    def __init__(self, pipeline: Clients, *, send_arguments: bool = False) -> None:
        self._pipeline = pipeline
        self._send_arguments = send_arguments
        self._known: BaseClient | None = None
        self._last_seen: ContextVar[object] | None = None

    def publish(self, publish: Publish) -> AbstractContextManager[object]:
        """Open nothing; take note of a client that the app initialised after us."""
        del publish
        self._pipeline.client()
        return NOTHING

    def run(self, run: Run) -> AbstractContextManager[object]:
        """Open an isolation scope: what the run sets, leaves and captures stays its own."""
        client = self._pipeline.client()
        return NOTHING if client is None else self._scope(run, client)

    def failed(self, run: Run) -> None:
        """Capture the run's exception, once, and leave the event's id in ``run.event_id``."""
        client = self._pipeline.client()
        if client is None or run.exception is None:
            return
        mark = _current.get()
        if mark is None or mark.run is not run:
            with self._scope(run, client) as mark:
                self._capture(mark, client, run.exception)
        elif mark.captured is not run.exception:
            self._capture(mark, client, run.exception)

    def _scope(self, run: Run, client: BaseClient) -> _RunScope:
        self._forget_last_seen(client)
        return _RunScope(_Mark(run, send_arguments=self._send_arguments))

    def _forget_last_seen(self, client: BaseClient) -> None:
        """Let an exception object that failed an earlier run of this thread be reported again."""
        if client is not self._known:
            dedupe = client.integrations.get("dedupe")
            self._known, self._last_seen = client, getattr(dedupe, "_last_seen", None)
        if self._last_seen is not None and self._last_seen.get(None) is not None:
            self._last_seen.set(None)

    def _capture(self, mark: _Mark, client: BaseClient, exception: BaseException) -> None:
        mark.captured = exception
        run = mark.run
        event, hint = event_of(exception, client, variables=self._send_arguments)
        event["tags"] = {semconv.TAG_OUTCOME: (run.outcome or Outcome.FAILED).value}
        if run.span is not None:
            event["contexts"] = {"trace": _trace_context(run.span.trace_id, run.span.span_id)}
        if _is_soft_limit(exception):
            event["fingerprint"] = ["celery", SOFT_LIMIT, run.task]
        run.event_id = sentry_sdk.capture_event(event, hint=hint)


class _RunScope:
    """Forks both of Sentry's scopes for a run, and puts back what was there before.

    ``sentry_sdk.isolation_scope()`` does the same, as a generator: half as much again.
    """

    __slots__ = ("_current", "_isolation", "_mark", "_token")

    def __init__(self, mark: _Mark) -> None:
        self._mark = mark
        self._current = Scope.get_current_scope()
        self._isolation = Scope.get_isolation_scope()

    def __enter__(self) -> _Mark:
        mark = self._mark
        self._token = _current.set(mark)
        Scope.set_current_scope(fork(self._current))
        Scope.set_isolation_scope(fork(self._isolation, mark.sign))
        return mark

    def __exit__(self, *_: object) -> None:
        Scope.set_isolation_scope(self._isolation)
        Scope.set_current_scope(self._current)
        _current.reset(self._token)


class _Mark:
    """Sentry's event processor for one run: says on each event which run it is from."""

    __slots__ = ("captured", "run", "send_arguments")

    def __init__(self, run: Run, *, send_arguments: bool) -> None:
        self.run = run
        self.send_arguments = send_arguments
        self.captured: BaseException | None = None

    def sign(self, scope: Scope) -> None:
        """Make an isolation scope the run's."""
        scope.clear_breadcrumbs()
        scope.set_transaction_name(self.run.name, source="task")
        scope.add_event_processor(self)

    def __call__(self, event: Event, hint: Hint) -> Event | None:
        del hint
        current = _current.get()
        if current is not None and current is not self:
            return event  # an eager run inside this one, which has a processor of its own
        told = cast("dict[str, object]", event)
        if event.get("type") != "transaction":
            self._discreet(told)
            self._describe(told)
            settle(told)
        tags = redact.table(told.setdefault("tags", {}))
        for name, value in _tags(self.run).items():
            if value is None:
                tags.pop(name, None)  # an outer run's
            else:
                tags[name] = value
        return event

    def _discreet(self, event: dict[str, object]) -> None:
        options = sentry_sdk.get_client().options
        if options.get("attach_stacktrace") and not event.keys() & _STACKS:
            # Sentry would add it after this, with its variables.
            event["threads"] = {"values": [_stack(variables=self.send_arguments)]}
        redact.drop_variables(event, everywhere=not self.send_arguments)

    def _describe(self, event: dict[str, object]) -> None:
        context: dict[str, object] = {
            name: value
            for name in _CONTEXT_FIELDS
            if (value := getattr(self.run, name)) is not None
        }
        contexts = redact.table(event.setdefault("contexts", {}))
        contexts[semconv.SENTRY_CONTEXT] = context
        if self.send_arguments:
            secret = _secret_keys(sentry_sdk.get_client().options)
            context["args"] = redact.brief(self.run.args, secret)
            context["kwargs"] = redact.brief(self.run.kwargs, secret)


_current: ContextVar[_Mark | None] = ContextVar("taskobs_sentry_run", default=None)
_STACKS: Final = frozenset({"exception", "stacktrace", "threads"})


def _tags(run: Run) -> dict[str, object]:
    return {
        semconv.TAG_TASK: run.task,
        semconv.TAG_TASK_ID: run.task_id,
        semconv.TAG_STOCK_TASK_ID: run.task_id,
        semconv.TAG_QUEUE: run.queue,
        semconv.TAG_ATTEMPT: run.attempt,
        semconv.TAG_ROOT_ID: run.root_id,
        semconv.TAG_HOSTNAME: run.hostname,
    }


def _trace_context(trace_id: str, span_id: str) -> dict[str, object]:
    return {
        "trace_id": trace_id,
        "span_id": span_id,
        "op": OPERATION,
        "status": "internal_error",
    }


def _is_soft_limit(exception: BaseException) -> bool:
    """Tell Celery's and billiard's own class, and what derives from it, by name."""
    return any(
        kind.__name__ == SOFT_LIMIT
        and kind.__module__ in ("billiard.exceptions", "celery.exceptions")
        for kind in type(exception).__mro__
    )


def _stack(*, variables: bool) -> dict[str, object]:
    options: dict[str, Any] = {"include_local_variables": variables} if _STACK_VARIABLES else {}
    frames = redact.rows(current_stacktrace(**options)["frames"])
    while frames and redact.belongs_to_celery(frames[-1].get("module")):
        frames.pop()  # ours, below the call that captured
    return {"stacktrace": {"frames": frames}, "crashed": False, "current": True}


def _secret_keys(options: Mapping[str, object]) -> frozenset[str]:
    """Return the keys that the client's own scrubber looks for, if it has one."""
    scrubber = options.get("event_scrubber")
    return frozenset(getattr(scrubber, "denylist", ()))
