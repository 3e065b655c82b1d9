"""Keeps the Sentry events of a run together: tags, context, the run's trace, and no arguments."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final, cast

import sentry_sdk
from opentelemetry import trace as otel_trace
from sentry_sdk.client import BaseClient
from sentry_sdk.integrations.dedupe import DedupeIntegration
from sentry_sdk.scope import Scope
from sentry_sdk.types import Event, Hint
from sentry_sdk.utils import current_stacktrace

from taskobs import semconv
from taskobs.model import Outcome, Run
from taskobs.observers.context import state as context_state
from taskobs.observers.context import values as context_values
from taskobs.observers.sentry import redact
from taskobs.observers.sentry import trace as sentry_trace
from taskobs.observers.sentry.celery_texts import FILTERED
from taskobs.observers.sentry.context_tags import add_context
from taskobs.observers.sentry.event_rule import EventRule
from taskobs.observers.sentry.events import SOFT_LIMIT, event_of, is_soft_limit, spare_serializer
from taskobs.observers.sentry.held_events import HeldEvents
from taskobs.observers.sentry.reported import exception_of, repeats_handled_failure
from taskobs.observers.sentry.scopes import fork
from taskobs.observers.sentry.trace_page import add_trace_url

if TYPE_CHECKING:
    from typing_extensions import Self

OPERATION: Final = "queue.task.celery"
"""Sentry's name for the run of a Celery task."""

_TRACE_FIELDS: Final = {"op": OPERATION, "status": "internal_error"}
CONTEXT_FIELDS: Final = (
    *("parent_id", "group_id", "exchange", "routing_key", "eta", "expires", "priority"),
    *("redelivered", "eager", "origin", "queue_latency"),
)
_STACKS: Final = frozenset({"exception", "stacktrace", "threads"})
_STACK_VARIABLES: Final = (
    "include_local_variables" in inspect.signature(current_stacktrace).parameters
)
_reset_last_seen: Final[Any] = getattr(DedupeIntegration, "reset_last_seen", None)


class RunEvents:
    """Gives a run scopes of its own in Sentry, and processes the events that are captured there.

    It is open as long as the run is, and puts back the scopes that were there before. Sentry's
    ``isolation_scope()`` does so as a generator, which costs half as much again.
    """

    __slots__ = (
        *("_capturing", "_current", "_isolation", "_rule", "_token"),
        *("failure", "failure_id", "held", "outer", "run"),
    )

    def __init__(self, run: Run, rule: EventRule) -> None:
        self.run = run
        self._current = Scope.get_current_scope()
        self._isolation = Scope.get_isolation_scope()
        self.held: HeldEvents | None = None
        self.failure: BaseException | None = None
        """The exception that was last reported as the run's failure."""
        self.failure_id: str | None = None
        self._rule = rule
        self._capturing: BaseException | None = None
        self.outer = active.get()
        """The run that this one, an eager run, is nested in."""

    def __enter__(self) -> Self:
        self._token = active.set(self)
        Scope.set_current_scope(fork(self._current))
        Scope.set_isolation_scope(fork(self._isolation, self._prepare))
        return self

    def __exit__(self, *_: object) -> None:
        try:
            if self.held is not None:
                self.held.close()
        finally:
            Scope.set_isolation_scope(self._isolation)
            Scope.set_current_scope(self._current)
            active.reset(self._token)

    def _prepare(self, scope: Scope) -> None:
        """Make an isolation scope the run's; called when somebody first looks at it."""
        scope.clear_breadcrumbs()
        scope.set_transaction_name(self.run.name, source="task")
        scope.add_event_processor(self)
        sentry_trace.enter(scope, self.run, own_trace=self._rule.link)
        # An exception object that failed an earlier run of this thread is reported again.
        self._forget_last_seen()

    def report(self, exception: BaseException, event_id: str | None) -> None:
        """Note that an exception was reported; it may propagate through outer eager runs."""
        events: RunEvents | None = self
        while events is not None:
            events.failure, events.failure_id = exception, event_id
            events = events.outer

    def leave_out(self, exception: BaseException) -> None:
        """Send no event of an exception, by which the run has failed.

        Outer eager runs that it propagates through have rules of their own.
        """
        self.failure, self.failure_id = exception, None
        if self.held is not None:
            self.held.drop(exception)

    @property
    def scrubs(self) -> bool:
        """Whether arguments are to be removed from what this run sends."""
        return self._rule.scrub

    def __call__(self, event: Event, hint: Hint) -> Event | None:
        """Change an event of the run; None drops it."""
        current = active.get()
        if current is not None and current is not self:
            return event  # an eager run inside this one, which has a processor of its own
        fields = cast("dict[str, object]", event)
        if event.get("type") != "transaction":
            if self._repeats(fields, hint):
                return None
            self._describe(fields)
            self._add_stack(fields)
            spare_serializer(fields)
            self._link(fields)
        if self._rule.scrub:
            redact.drop_arguments(fields)
        redact.set_tags(fields, _tags(self.run))
        if current is None and context_state.in_use:  # in a thread of the run
            add_context(fields, context_values.last_values_of(self.run))
        return event

    def _link(self, event: dict[str, object]) -> None:
        """Link to the page of the run's trace, also in a thread, which may have no span."""
        span, template = self.run.span, self._rule.trace_url
        if template is None or span is None:
            return
        if span.sampled or (self._capturing is not None and self._is_kept()):
            add_trace_url(event, template, span.trace_id)

    def _is_kept(self) -> bool:
        """Tell whether the run, which has failed, is recorded though its trace is not sampled."""
        outcome = self.run.outcome or Outcome.FAILED
        return outcome in self._rule.kept and otel_trace.get_current_span().is_recording()

    def capture(self, client: BaseClient, exception: BaseException) -> str | None:
        """Report an exception as the run's failure; return the event's id."""
        tags = {semconv.TAG_OUTCOME: (self.run.outcome or Outcome.FAILED).value}
        event_id, self._capturing = None, exception
        try:
            if self.held is not None:  # it was captured before the run was known to fail
                event_id = self.held.send_as_failure(exception, tags, self._link)
            if event_id is None:
                event_id = self._capture(client, exception, tags)
        finally:
            self._capturing = None
        self.report(exception, event_id)
        return event_id

    def _capture(
        self, client: BaseClient, exception: BaseException, tags: Mapping[str, object]
    ) -> str | None:
        event, hint = event_of(exception, client, variables=self._rule.send_arguments)
        redact.set_tags(cast("dict[str, object]", event), tags)
        if self.run.span is not None:
            trace = {"trace_id": self.run.span.trace_id, "span_id": self.run.span.span_id}
            event["contexts"] = {"trace": {**trace, **_TRACE_FIELDS}}
        return sentry_sdk.capture_event(event, hint=hint)

    def _repeats(self, event: dict[str, object], hint: Mapping[str, Any]) -> bool:
        """Tell whether the failure's event says the same; hold an event that may become it."""
        exception = exception_of(hint)
        if exception is None:
            return repeats_handled_failure(event, hint, self.run)
        if is_soft_limit(exception):
            event.setdefault("fingerprint", ["celery", SOFT_LIMIT, self.run.task])
        if exception is self._capturing:
            trace = redact.part(redact.part(event, "contexts"), "trace")
            trace.update({**_TRACE_FIELDS, **trace})
            return False
        if self.held is None:
            self.held = HeldEvents()
        if exception is self.failure or self.held.has(exception):
            return True
        self.held.expect(str(event.get("event_id")), exception)
        self._forget_last_seen()
        return False

    @staticmethod
    def _forget_last_seen() -> None:
        """Have Sentry forget the exception that it saw last, which it may keep alive."""
        if _reset_last_seen is not None:
            _reset_last_seen()

    def _add_stack(self, event: dict[str, object]) -> None:
        """Add the stack of a message, which Sentry would add later, with its variables."""
        options = sentry_sdk.get_client().options
        if options.get("attach_stacktrace") and not event.keys() & _STACKS:
            event["threads"] = {"values": [_stack(variables=self._rule.send_arguments)]}
        redact.drop_variables(event, everywhere=not self._rule.send_arguments)

    def _describe(self, event: dict[str, object]) -> None:
        context: dict[str, object] = {
            name: value for name in CONTEXT_FIELDS if (value := getattr(self.run, name)) is not None
        }
        job: dict[str, object] = {"task_name": self.run.task, "args": FILTERED, "kwargs": FILTERED}
        if self._rule.send_arguments:
            secret = _secret_keys(sentry_sdk.get_client().options)
            context["args"] = job["args"] = redact.brief(self.run.args, secret)
            context["kwargs"] = job["kwargs"] = redact.brief(self.run.kwargs, secret)
        redact.part(event, "contexts")[semconv.SENTRY_CONTEXT] = context
        # By `update`, as the pipeline's dict takes this key in no other way.
        redact.part(event, "extra").update({semconv.SENTRY_JOB: job})


active: Final[ContextVar[RunEvents | None]] = ContextVar("taskobs_sentry_run", default=None)


def _tags(run: Run) -> dict[str, object]:
    return {
        semconv.TAG_TASK: run.task,
        semconv.TAG_TASK_NAME: run.task,
        semconv.TAG_TASK_ID: run.task_id,
        semconv.TAG_STOCK_TASK_ID: run.task_id,
        semconv.TAG_QUEUE: run.queue,
        semconv.TAG_ATTEMPT: run.attempt,
        semconv.TAG_ROOT_ID: run.root_id,
        semconv.TAG_HOSTNAME: run.hostname,
    }


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
