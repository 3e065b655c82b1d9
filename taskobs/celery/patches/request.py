"""Reports what only a worker's main process sees: lost runs, and messages that never ran.

Celery's signals say too little of these (a hard time limit is signalled twice, a lost child without
its request), so the request class that the worker makes for each task is extended: its callbacks
are called once for each delivery, on every pool, with the message's headers at hand.
"""

# What Celery hands out has no types worth the name.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, Final, Protocol

from billiard.exceptions import TimeLimitExceeded, WorkerLostError
from celery import signals
from celery.app.task import Context
from celery.exceptions import NotRegistered
from celery.worker import strategy
from celery.worker.consumer import Consumer

from taskobs import semconv
from taskobs.celery import _compat
from taskobs.celery.adapter.external_outcomes import cancelled, lost, pool_failure, revoked
from taskobs.celery.adapter.untrusted import untrusted_task
from taskobs.celery.counting.delivery_count import DeliveryCount
from taskobs.celery.counting.traced import left_by, split, tracer_for
from taskobs.celery.patches.celery_stack import ETA_ERROR_ENDS_RUN, EndedRun, ending
from taskobs.celery.patches.consume import ConsumePatch, current_source, note_source
from taskobs.internal import span_ids
from taskobs.internal.guard import Guard
from taskobs.internal.wrapping import Patches
from taskobs.metrics.worker_table import TaskCounts, WorkerTable
from taskobs.model import ExternalOutcome, Outcome
from taskobs.observers.own_traffic import lifted, suppressed

_UID: Final = "taskobs.supervision."
_guard: Final = Guard()
_ETA_ERRORS: Final = (ValueError, OverflowError)
"""What is raised where an ETA can't be converted to a time of this machine's."""


class Report(Protocol):
    """Receives the end of one delivery of a task."""

    def __call__(self, task: Any, request: Any, external: ExternalOutcome) -> None:
        """Receive it, with the task and its request, or objects in place of them."""


class RequestPatch:
    """Extends the worker's request class, and connects signals of messages that never ran."""

    def __init__(self, report: Report) -> None:
        self._report = report
        self.table: WorkerTable | None = None
        """Where messages that are received from now on are counted."""
        self._on = False
        self._wrappers = Patches()
        self._consume_patch = ConsumePatch()

    def install(self) -> None:
        """Start watching; affects workers that start from now on."""
        self._on = True
        self._consume_patch.install()
        self._wrappers.wrap(strategy, "create_request_cls", self._create_request_class)
        self._wrappers.wrap(Consumer, "on_decode_error", self._decode_failed)
        signals.task_unknown.connect(self._unknown, weak=False, dispatch_uid=_UID + "unknown")
        signals.task_rejected.connect(self._rejected, weak=False, dispatch_uid=_UID + "rejected")
        if not _compat.announces_revoked():
            signals.task_revoked.connect(self._revoked, weak=False, dispatch_uid=_UID + "revoked")

    def remove(self) -> None:
        """Stop watching; the classes of a running worker stay, but report nothing."""
        self._on = False
        self._consume_patch.remove()
        self._wrappers.remove()
        signals.task_unknown.disconnect(dispatch_uid=_UID + "unknown")
        signals.task_rejected.disconnect(dispatch_uid=_UID + "rejected")
        signals.task_revoked.disconnect(dispatch_uid=_UID + "revoked")

    def _create_request_class(
        self, create: Callable[..., Any], _: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        pool = args[2] if len(args) > 2 else kwargs["pool"]  # noqa: PLR2004  # as Celery has it
        task = args[1] if len(args) > 1 else kwargs["task"]
        counts = None
        if self.table is not None:
            counts = self.table.of_task(task.name)
            kwargs.setdefault("trace", tracer_for(kwargs.get("app") or task.app))
        created = create(*args, **kwargs)
        return _watched(
            created,
            self._ended,
            task.app,
            inline=not pool.uses_semaphore,
            counts=counts,
            times_cpu=not getattr(pool, "is_green", False),
        )

    def _ended(self, request: Any, external: ExternalOutcome) -> None:
        if self._on:
            context = Context(request.request_dict, hostname=request.hostname)
            self._report(request.task, context, external)

    def _revoked(
        self, *, sender: Any, request: Any, terminated: Any, signum: Any, expired: Any, **_: Any
    ) -> None:
        reason = "expired" if expired else "terminated" if terminated else "revoked"
        # A request's context has neither the start time nor the process of its run.
        started: Any = SimpleNamespace(time_start=None, worker_pid=None)
        self._report(sender, request, revoked(started, reason, terminated, signum, expired))

    # Messages that never ran.

    def _decode_failed(
        self, handle: Callable[..., Any], consumer: Any, args: tuple[Any, ...], kwargs: Any
    ) -> Any:
        message, error = [*args, None, None][:2]
        self._report_untrusted(consumer, message, error)
        return handle(*args, **kwargs)

    def _unknown(self, *, sender: Any, message: Any, name: Any, **_: Any) -> None:
        # Celery's own exception is a KeyError of the name; NotRegistered is the clearer type.
        self._report_untrusted(sender, message, NotRegistered(name))

    def _rejected(self, *, sender: Any, message: Any, exc: Any = None, **_: Any) -> None:
        self._report_untrusted(sender, message, exc or ValueError("not a message of a task"))

    def _report_untrusted(self, consumer: Any, message: Any, error: BaseException | None) -> None:
        source = current_source()
        if self.table is not None and self._on:
            self.table.unknown_message(source.queue if source is not None else "")
        task, context = untrusted_task(consumer, message)
        note_source(vars(context), consumer.app, source)
        self._report(task, context, ExternalOutcome(outcome=Outcome.UNKNOWN, error=error))


class _WatchedRequest(_compat.RequestHooks):
    """Mixed into the request class of a worker: reports each delivery that a child can't report."""

    _taskobs_inline: bool
    """Whether the pool (solo, threads, greenlets) runs tasks in this process."""
    _taskobs_ended: Callable[[Any, ExternalOutcome], None]
    """Stored as a static method."""
    _taskobs_app: Any
    _taskobs_counts: TaskCounts | None = None
    """Of the class's task; None if nothing is counted."""
    _taskobs_times_cpu: bool
    """Whether the CPU time of a run's thread is that of the run: greenlets share a thread."""
    _taskobs_count: DeliveryCount | None = None
    _taskobs_reported = False
    """Whether this delivery was reported: Celery calls several of these methods for one end."""
    _taskobs_succeeded = False
    """Whether the result backend has the success of a run whose child died after it."""
    _taskobs_outcome: ExternalOutcome | None = None
    """What to report, until Celery has asked the result backend for such a success."""
    _taskobs_accepted: float | None = None
    """The monotonic clock, which this process and its children share, when the run began."""
    acknowledged: bool
    id: str
    task: Any
    time_start: float | None
    worker_pid: int | None
    request_dict: dict[str, Any]

    def __init__(self, message: Any, **more: Any) -> None:
        following: Any = super()
        following.__init__(message, **more)
        source = current_source()
        note_source(self.request_dict, self._taskobs_app, source)
        if self._taskobs_counts is not None:
            self._taskobs_count = DeliveryCount(
                self._taskobs_counts,
                source.queue if source is not None else "",
                self.request_dict,
                self.task,
            )

    def execute_using_pool(self, pool: Any, **kwargs: Any) -> Any:
        # The ids of the run's span are chosen here, so that the child and this process, which
        # reports the run if the child dies, record the same span. Ids in the message come from its
        # sender, and are overwritten: they are untrusted.
        self.request_dict[semconv.HEADER_RUN_SPAN] = (
            "" if self._taskobs_inline else span_ids.choose()
        )
        following: Any = super()
        if not self._taskobs_inline:
            return following.execute_using_pool(pool, **kwargs)
        with lifted():  # the run is in this context, or in a thread that may inherit it
            return following.execute_using_pool(pool, **kwargs)

    # In pools of threads or greenlets, Celery calls these in those of the run, before and after it.
    # They acknowledge the message, send events and store results, which is its own traffic.

    def on_success(self, result: Any, **kwargs: Any) -> Any:
        result, figures = split(result)
        count = self._taskobs_count
        if count is not None:  # before Celery acknowledges the message, which may fail
            if type(result) is not tuple:
                figures = left_by(self.id)
            try:
                count.brought(result, figures, with_cpu=self._taskobs_times_cpu)
            except Exception as error:
                if not _guard.swallows(error):
                    raise
        following: Any = super()
        with suppressed():
            return following.on_success(result, **kwargs)

    def on_accepted(self, pid: Any, time_accepted: Any) -> None:
        following: Any = super()
        self._taskobs_accepted = time_accepted
        if self._taskobs_count is not None:
            # First: the run goes on also if the message can't be acknowledged.
            try:
                self._taskobs_count.began(time_accepted)
            except Exception as error:
                if not _guard.swallows(error):
                    raise
        try:
            with suppressed():
                following.on_accepted(pid, time_accepted)
        except NotImplementedError:
            # Terminated while it waited for a thread: Celery can't terminate threads, and drops it.
            external = revoked(self, "terminated", terminated=False, signum=None, expired=False)
            self._taskobs_report(external, ran=False)
            raise

    def on_timeout(self, soft: Any, timeout: Any) -> None:
        if not soft:
            if self._taskobs_count is not None:
                self._taskobs_count.over_limit(self.worker_pid)
            self._taskobs_outcome = lost(self, TimeLimitExceeded(timeout))
            self._taskobs_report(self._taskobs_outcome)
        following: Any = super()
        with suppressed(), ending(self._taskobs_run):
            following.on_timeout(soft, timeout)

    def on_failure(
        self,
        exc_info: Any,
        send_failed_event: Any = True,  # noqa: FBT002  # as Celery has it
        return_ok: Any = None,
    ) -> Any:
        error = getattr(exc_info.exception, "exc", exc_info.exception)
        # With return_ok it is the task's own failure, which its run has already reported.
        self._taskobs_outcome = None if return_ok else pool_failure(self, error)
        asks_backend = isinstance(error, WorkerLostError) and _compat.checks_stored_success(self)
        if not asks_backend:  # before Celery stores the result, which can take long
            self._taskobs_report(self._taskobs_outcome)
        following: Any = super()
        try:
            with suppressed(), ending(self._taskobs_run):
                return following.on_failure(
                    exc_info, send_failed_event=send_failed_event, return_ok=return_ok
                )
        finally:
            if not self._taskobs_succeeded:
                self._taskobs_report(self._taskobs_outcome)
            if self._taskobs_count is not None:
                self._taskobs_count_failure(error)

    def _taskobs_count_failure(self, error: BaseException) -> None:
        """Count what was not counted as one of the ends that the main process reports."""
        count = self._taskobs_count
        if count is None:
            return
        with _guard:
            if self._taskobs_succeeded:
                count.succeeded()
            else:
                count.failed(error)

    def reject(self, requeue: Any = False) -> Any:  # noqa: FBT002  # as Celery has it
        # A message whose ETA is no time of this machine's is rejected before it runs, with a log
        # record and without a signal, while Celery handles why (seen in 5.3 to 5.7).
        error = sys.exc_info()[1] if ETA_ERROR_ENDS_RUN else None
        if self.time_start is None and not requeue and isinstance(error, _ETA_ERRORS):
            self._taskobs_report(ExternalOutcome(outcome=Outcome.FAILED, error=error))
        following: Any = super()
        return following.reject(requeue=requeue)

    def success_checked(self, *, stored: bool) -> None:
        # If the success is stored, its child has reported it. If the child died just before that,
        # in `on_success`, the relay reports the span that is still open.
        self._taskobs_succeeded = stored
        if not stored:
            self._taskobs_report(self._taskobs_outcome)

    def before_cancelled(self, *, retried: bool) -> None:
        # A cold shutdown announces a retry even if the message was acknowledged.
        self._taskobs_report(cancelled(self, again=retried and not self.acknowledged))

    def before_revoked(self, reason: Any, terminated: Any, signum: Any, expired: Any) -> None:
        self._taskobs_report(revoked(self, reason, terminated, signum, expired))

    def _taskobs_run(self) -> EndedRun:
        context: Any = Context(self.request_dict)
        return EndedRun(
            self.task, context, context.args, context.kwargs, external=self._taskobs_outcome
        )

    def _taskobs_report(self, external: ExternalOutcome | None, *, ran: bool = True) -> None:
        reports_itself = self._taskobs_inline and ran and self.time_start
        if external is None or reports_itself or self._taskobs_reported:
            return
        self._taskobs_reported = True
        if self._taskobs_count is not None:
            with _guard:
                self._taskobs_count.reported(external)
        if external.started is not None and self._taskobs_accepted is not None:
            # Celery's ``time_start`` is by the wall clock, which may have been set since.
            external.started = time.time() - (time.monotonic() - self._taskobs_accepted)
        self._taskobs_ended(self, external)


def _watched(  # noqa: PLR0913  # the attributes of the class
    base: type[Any],
    ended: Callable[[Any, ExternalOutcome], None],
    app: Any,
    *,
    inline: bool,
    counts: TaskCounts | None = None,
    times_cpu: bool = True,
) -> type[Any]:
    """Extend a request class: it reports what a child can't report, and counts all."""
    attributes = {
        "_taskobs_app": app,
        "_taskobs_inline": inline,
        "_taskobs_ended": staticmethod(ended),
        "_taskobs_counts": counts,
        "_taskobs_times_cpu": times_cpu,
    }
    return type("WatchedRequest", (_WatchedRequest, _compat.with_hooks(base)), attributes)
