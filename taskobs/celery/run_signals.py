"""Makes runs of Celery's signals, and shows them to observers.

``task_prerun`` begins a run and ``task_postrun`` ends it; ``task_failure`` and ``task_retry`` come
in between, while the exception is handled. What Celery reports by no signal comes from patches and
from the requests of a worker's main process.
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final

from billiard.exceptions import TimeLimitExceeded, WorkerLostError
from celery import current_task, signals
from celery.app.task import Context

from taskobs.celery.active import (
    ACTIVE_RUN,
    ActiveRun,
    active_run,
    begin_run,
    note_logged_error,
    note_refused_retry,
)
from taskobs.celery.adapter import outcomes
from taskobs.celery.adapter.batches import describe_batch
from taskobs.celery.adapter.external_outcomes import lost
from taskobs.celery.adapter.runs import run_of
from taskobs.celery.observer_calls import ObserverCalls, call_each
from taskobs.celery.patches.celery_stack import ended_run, handles_failure
from taskobs.celery.patches.logged_errors import LoggedErrors
from taskobs.celery.patches.retry import RetryPatch
from taskobs.celery.worker_requests import WorkerRequests
from taskobs.internal.exceptions.handled import handled
from taskobs.internal.guard import Guard
from taskobs.model import ExternalOutcome, Outcome
from taskobs.observers.context import state as context_state
from taskobs.observers.context import values as context_values

if TYPE_CHECKING:
    from taskobs.metrics.worker_table import WorkerTable

_MAX_DEPTH: Final = 1_000
"""Eager runs inside each other: more than Python's stack has room for, so some have ended."""
_SUCCEEDED: Final = Outcome.SUCCEEDED  # read once: an enumeration's members are slow to read
_UNENDED: Final = "its end was never reported"


_last_failure: ContextVar[str | None] = ContextVar("taskobs_failure", default=None)
"""The id of the run whose failure was reported last: Celery may signal it again after its end."""


class RunSignals:
    """Shows observers each run of this process, and in a worker's main process those that died."""

    def __init__(self, guard: Guard, calls: ObserverCalls, clock: Callable[[], float]) -> None:
        self._guard = guard
        self._calls = calls
        self._clock = clock
        self._logged_errors = LoggedErrors(self._hook_failed, note_logged_error)
        self._retry_patch = RetryPatch(note_refused_retry)
        self._worker_requests = WorkerRequests(self._external_outcome)
        self.receivers: tuple[tuple[Any, Callable[..., None]], ...] = (
            *self._worker_requests.receivers,
            (signals.task_prerun, self._run_started),
            (signals.task_failure, self._run_failed),
            (signals.task_retry, self._run_retried),
            (signals.task_postrun, self._run_ended),
            (signals.task_internal_error, self._run_broken),
        )

    def install(self) -> None:
        """Install the patches for what Celery sends no signal of."""
        self._logged_errors.install()
        self._retry_patch.install()
        self._worker_requests.install()

    def remove(self) -> None:
        """Remove the patches."""
        self._logged_errors.remove()
        self._retry_patch.remove()
        self._worker_requests.remove()

    def count_in(self, table: WorkerTable | None) -> None:
        """Have a worker that starts from now on count what it receives there."""
        self._worker_requests.count_in(table)

    def worker_runs(self, worker: object) -> None:
        """Watch the requests of a worker that may have started before anybody observed."""
        self._worker_requests.worker_runs(worker)

    # The start.

    def _run_started(self, *, task: Any, task_id: str, args: Any, kwargs: Any, **_: Any) -> None:
        try:
            request = task.request
            outer = ACTIVE_RUN.get()
            if outer is not None and not (request.is_eager and outer.depth < _MAX_DEPTH):
                # A worker begins no run inside another: the end of this one never came.
                self._close_unended(outer)
            run = run_of(task, request, args, kwargs, self._clock())
            if not run.usual and run.eager and context_state.in_use:
                run.context = context_values.values_of(None if outer is None else outer.run)
            if request.id == task_id:
                begin_run(self._guard, self._calls, task, run)
            else:
                describe_batch(run, task.app, task_id, args)
                begin_run(self._guard, self._calls, task, run).batch = True
                self._logged_errors.watch_batches()
        except Exception as error:
            if not self._guard.swallows(error):
                raise

    # The end.

    def _run_failed(
        self,
        *,
        sender: Any,
        task_id: str,
        exception: BaseException,
        einfo: Any = None,
        **call: Any,
    ) -> None:
        active = active_run(task_id)
        if active is None:
            # A worker's main process gets this signal, too, for runs that it has not run.
            if _is_running(sender, task_id):
                given = call.get("args"), call.get("kwargs")
                self.failed_unobserved(sender, task_id, exception, *given)
            return
        # Celery is in its `except` block: there is the exception itself, with its frames,
        # where the signal has a copy that can be pickled.
        current = handled()
        written = einfo.traceback if einfo is not None and current is exception else None
        self._fail(active, exception if current is None else current, written)

    def _run_retried(self, *, request: Any, reason: BaseException | None = None, **_: Any) -> None:
        active = active_run(request.id)
        # A worker that stops cold sends this for each task it gives up, without a reason.
        if active is not None and reason is not None:
            with self._guard:
                outcomes.apply_exception(active.task, active.run, reason)

    def _run_ended(self, *, task_id: str, state: str | None, retval: Any, **_: Any) -> None:
        active = ACTIVE_RUN.get()
        if active is None or active.run.task_id != task_id:
            active = self._find_outer(task_id)
            if active is None:
                return
        run, error = active.run, handled()
        try:
            if state == "SUCCESS" and error is None and run.outcome is None:  # as nearly always
                run.outcome = _SUCCEEDED
            else:
                self._conclude(active, state, retval, error)
        finally:
            self._finish(active)

    def _conclude(
        self, active: ActiveRun, state: str | None, result: Any, error: BaseException | None
    ) -> None:
        if error is not None and (state is None or error is not active.handling):
            # Celery lets it pass: an eager run that propagates, a raising hook, SystemExit.
            self._fail(active, error)
        elif active.refused is not None and result is active.refused[0]:
            # Celery gives up the task, and rejects its message without a word to anybody.
            self._fail(active, outcomes.error_of_refused_retry(*active.refused), unexpected=True)
        elif active.run.outcome is None:
            cause = result if isinstance(result, BaseException) else active.logged
            if active.batch and state == "FAILURE" and cause is not None:
                self._fail(active, cause)
            else:
                with self._guard:
                    outcomes.apply_state(active.task, active.run, state, result)

    def _run_broken(self, *, sender: Any, task_id: str, exception: Any, **call: Any) -> None:
        """Celery failed outside the task's body, before the run could be seen."""
        if _last_failure.get() == task_id:
            return  # The run saw it, on its way out; a raising on_failure is called once more.
        with self._guard:
            request: Any = Context(call.get("request") or {}, id=task_id)
            args, kwargs = call.get("args"), call.get("kwargs")
            self._run_and_fail(sender, request, args, kwargs, exception)

    def _hook_failed(self, error: BaseException) -> None:
        """A hook, errback or callback failed, and Celery kept the outcome: report it beside."""
        active = ACTIVE_RUN.get()
        if active is None:
            _report_cleanup(error, self._guard, self._calls, self._clock())
            return
        ending = Outcome.FAILED if handles_failure() else Outcome.SUCCEEDED
        outcome = active.run.outcome or ending
        self._fail(active, error, outcome=outcome)
        active.run.outcome = outcome

    def _fail(
        self,
        active: ActiveRun,
        error: BaseException,
        traceback: str | None = None,
        *,
        outcome: Outcome | None = None,
        unexpected: bool = False,
    ) -> None:
        """Report an exception once; ``outcome`` is the run's if Celery keeps another one.

        One that is ``unexpected`` is a failure also if the task lists it in ``throws``.
        """
        # By identity: an exception of the task's own may not be comparable.
        if any(error is reported for reported in active.reported):
            return
        active.reported += (error,)
        active.run.traceback = traceback
        with self._guard:
            outcomes.apply_exception(active.task, active.run, error)
            active.run.expected = active.run.expected and not unexpected
        if active.run.outcome is not Outcome.FAILED or active.run.expected:
            return
        if not isinstance(error, Exception):
            reported_here = outcomes.apply_process_death(active.run, error)
            if not reported_here:
                return
        if outcome is not None:  # before anybody is told, so that the event and the span agree
            active.run.outcome = outcome
        call_each(self._guard, self._calls.failed, active.run)
        _last_failure.set(active.run.task_id)

    def _external_outcome(self, task: Any, request: Any, external: ExternalOutcome) -> None:
        """The worker reports a run that died, or a message that never became one."""
        with self._guard:
            now = external.started or self._clock()
            run = run_of(task, request, request.args, request.kwargs, now)
            outcomes.apply_external_outcome(run, external)
            active = begin_run(self._guard, self._calls, task, run)
            if run.exception is not None:
                call_each(self._guard, self._calls.failed, run)
            self._finish(active)

    def failed_unobserved(
        self, task: Any, task_id: str, error: BaseException, args: Any, kwargs: Any
    ) -> None:
        """Report the failure of a run that began before anybody observed, as it is signalled."""
        active = active_run(task_id)
        if active is not None:
            if active.reported:  # to those who observed already
                call_each(self._guard, self._calls.failed, active.run)
            return
        if _last_failure.get() == task_id:
            return
        request = task.request
        if request.id != task_id:  # Celery before 5.7 doesn't set it in a worker's main process
            request = Context(id=task_id, args=args, kwargs=kwargs)
        if isinstance(error, (TimeLimitExceeded, WorkerLostError)):
            self._external_outcome(task, request, lost(None, error))
            return
        with self._guard:
            self._run_and_fail(task, request, args, kwargs, handled() or error)

    def _run_and_fail(
        self, task: Any, request: Any, args: Any, kwargs: Any, error: BaseException
    ) -> None:
        """Show observers, all at once, a run that failed before they could see it begin."""
        run = run_of(task, request, args, kwargs, self._clock())
        active = begin_run(self._guard, self._calls, task, run)
        self._fail(active, error)
        self._finish(active)

    def _finish(self, active: ActiveRun) -> None:
        ACTIVE_RUN.set(active.outer)
        try:
            for ended in self._calls.ended:  # as `call_each` does, at each run
                try:
                    ended(active.run)
                except Exception as error:  # noqa: PERF203  # free since Python 3.11
                    if not self._guard.swallows(error):
                        raise
        finally:
            active.close()
            if active.run.context_now is not None:
                context_values.forget(active.run)

    def _find_outer(self, task_id: str) -> ActiveRun | None:
        """Return a run that has others inside it which never ended, and close those."""
        innermost = found = ACTIVE_RUN.get()
        while found is not None and found.run.task_id != task_id:
            found = found.outer
        if found is not None:
            self._close_unended(innermost, found)
        return found

    def _close_unended(self, active: ActiveRun | None, until: ActiveRun | None = None) -> None:
        while active is not None and active is not until:
            if active.run.outcome is None:
                active.run.outcome, active.run.reason = Outcome.LOST, _UNENDED
            self._finish(active)
            active = active.outer


def _report_cleanup(error: BaseException, guard: Guard, calls: ObserverCalls, now: float) -> None:
    """Report that something failed beside a run whose span has ended, or is ended elsewhere."""
    ended = ended_run()
    if ended is None:
        return
    with guard:
        run = run_of(ended.task, ended.request, ended.args, ended.kwargs, now)
        if ended.external is None:
            outcomes.apply_state(ended.task, run, ended.state, ended.result)
        else:
            outcomes.apply_external_outcome(run, ended.external)
        run.exception = error
        call_each(guard, calls.failed, run)


def _is_running(task: Any, task_id: str) -> bool:
    """Tell whether this thread or greenlet runs a task at this moment."""
    running: Any = current_task  # a proxy, which is falsy outside of a task
    return bool(running) and running.name == task.name and running.request.id == task_id
