"""From Celery's signals to observers: what opens a publish or a run, and what closes it.

One record in one context variable holds what is open; it is restored, not cleared, so eager
runs nest, and threads and greenlets don't see each other's.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from contextvars import ContextVar, Token
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final

from celery import signals
from celery.app.task import Context

from taskobs.celery.adapter import adapter
from taskobs.celery.context_stack import ContextStack
from taskobs.celery.patches.beat import BeatPatch
from taskobs.celery.patches.hook_errors import HookErrors
from taskobs.celery.patches.send import SendPatch
from taskobs.internal.guard import Guard
from taskobs.model import ExternalOutcome, Outcome, Publish, Run, Schedule
from taskobs.observers.base import Observer

if TYPE_CHECKING:
    from taskobs.celery.patches.request import RequestPatch

_UID: Final = "taskobs."


class ActiveRun(ContextStack):
    """A run that is open, and what to put back at its end.

    ``handling`` is what the caller was handling already: not what ended the run.
    """

    __slots__ = ("handling", "reported", "run", "task", "token")

    def __init__(self, guard: Guard, run: Run, task: Any, handling: BaseException | None) -> None:
        super().__init__(guard)
        self.run = run
        self.task = task
        self.handling = handling
        self.token: Token[ActiveRun | None] | None = None
        self.reported: tuple[BaseException, ...] = ()


_active_run: ContextVar[ActiveRun | None] = ContextVar("taskobs_run", default=None)
_last_failure: ContextVar[str | None] = ContextVar("taskobs_failure", default=None)
_active_publish: ContextVar[Publish | None] = ContextVar("taskobs_publish", default=None)


def current_run() -> Run | None:
    """Return the run that this thread or greenlet is in."""
    found = _active_run.get()
    return found.run if found else None


class ActivePublish(ContextStack):
    """A publish, or the publishes of a group or chord: one ``with`` block around the send."""

    __slots__ = ("_token", "publish")

    def __init__(self, guard: Guard) -> None:
        super().__init__(guard)
        self.publish: Publish | None = None

    def __enter__(self) -> None:
        self._token = _active_publish.set(self.publish)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        _active_publish.reset(self._token)
        if self.publish is not None:
            self.publish.error = error
        self.close()


class TaskSignals:
    """Connects Celery to observers while there is at least one.

    Not thread-safe to attach to or detach from; runs and publishes may be in any thread.
    """

    def __init__(self, guard: Guard, clock: Callable[[], float] = time.time) -> None:
        self.guard = guard
        self._clock = clock
        self._observe(())
        self._send_patch = SendPatch(self._publishing, self._canvas)
        self._beat = BeatPatch(self._schedule_of)
        self._hooks = HookErrors(self._hook_failed)
        self._request_patch: RequestPatch | None = None
        self._receivers: tuple[tuple[Any, Callable[..., None]], ...] = (
            (signals.worker_init, self._worker_starts),
            (signals.celeryd_after_setup, self._worker_starts),  # of a session from worker_init
            (signals.beat_init, self._beat_starts),
            (signals.before_task_publish, self._publish_routed),
            (signals.task_prerun, self._run_started),
            (signals.task_failure, self._run_failed),
            (signals.task_retry, self._run_retried),
            (signals.task_postrun, self._run_ended),
            (signals.task_internal_error, self._run_broken),
        )

    def attach(self, observer: Observer, *, first: bool = False) -> None:
        """Let an observer see facts from now on; the first one opens first and closes last."""
        if not self._observers:
            self._connect()
        self._observe((observer, *self._observers) if first else (*self._observers, observer))

    def detach(self, observer: Observer) -> None:
        """Show an observer nothing more; without any, nothing of ours is left in Celery."""
        had = bool(self._observers)
        self._observe(tuple(other for other in self._observers if other is not observer))
        if had and not self._observers:
            self._disconnect()

    def _observe(self, observers: tuple[Observer, ...]) -> None:
        """Look up once what is called for each publish and each run."""
        self._observers = observers
        self._for_publish = [each.publish for each in observers if _has(each, "publish")]
        self._for_message = [each.sending for each in observers if _has(each, "sending")]
        self._for_run = [each.run for each in observers if _has(each, "run")]
        self._for_end = [each.ended for each in observers if _has(each, "ended")]

    def _connect(self) -> None:
        for signal, receiver in self._receivers:
            signal.connect(receiver, weak=False, dispatch_uid=_UID + receiver.__name__)
        self._send_patch.install()
        self._hooks.install()
        if self._request_patch is not None:  # of a worker that runs on
            self._request_patch.install()

    def _disconnect(self) -> None:
        for signal, receiver in self._receivers:
            signal.disconnect(dispatch_uid=_UID + receiver.__name__)
        self._send_patch.remove()
        self._beat.remove()
        self._hooks.remove()
        if self._request_patch is not None:
            self._request_patch.remove()

    # Publishes.

    def _publishing(self, app: Any, task: str, options: Mapping[str, Any]) -> ActivePublish:
        sending = ActivePublish(self.guard)
        try:
            publish = adapter.publish_of(app, task, options, current_run())
            publish.schedule = self._beat.take()
            sending.publish = publish
            sending.open(self._for_publish, publish)
        except BaseException as error:
            if not self.guard.swallows(error):
                sending.close()
                raise
        return sending

    def _beat_starts(self, **_: Any) -> None:
        self._beat.install()

    def _schedule_of(self, entry: Any) -> Schedule | None:
        with self.guard:
            return adapter.schedule_of(entry)
        return None

    def _publish_routed(self, **message: Any) -> None:
        publish = _active_publish.get()
        if publish is None:
            return
        try:
            adapter.complete(publish, message)
        except Exception as error:
            if not self.guard.swallows(error):
                raise
        for sending in self._for_message:
            try:
                sending(publish)
            except Exception as error:  # noqa: PERF203  # free since Python 3.11
                if not self.guard.swallows(error):
                    raise

    def _canvas(self, kind: str) -> ActivePublish:
        sending = ActivePublish(self.guard)
        sending.open([observer.canvas for observer in self._observers], kind)
        return sending

    # Runs.

    def _run_started(self, *, task: Any, args: Any, kwargs: Any, **_: Any) -> None:
        try:
            self._begin(task, adapter.run_of(task, task.request, args, kwargs, self._clock()))
        except Exception as error:
            if not self.guard.swallows(error):
                raise

    def _begin(self, task: Any, run: Run) -> ActiveRun:
        opened = ActiveRun(self.guard, run, task, sys.exc_info()[1])
        opened.token = _active_run.set(opened)
        opened.open(self._for_run, run)
        if run.chord_links is not None and run.span is not None and run.span.sampled:
            with self.guard:  # the backend may fail; the run is open all the same
                run.chord_links.put(run.span.traceparent)
        return opened

    def _run_failed(
        self, *, task_id: str, exception: BaseException, einfo: Any = None, **_: Any
    ) -> None:
        opened = self._opened(task_id)
        if opened is None:
            return
        # Celery is in its `except` block: there is the exception itself, with its frames,
        # where the signal has a copy that can be pickled.
        handled = sys.exc_info()[1]
        written = einfo.traceback if einfo is not None and handled is exception else None
        self._fail(opened, exception if handled is None else handled, written)

    def _run_retried(self, *, request: Any, reason: BaseException | None = None, **_: Any) -> None:
        opened = self._opened(request.id)
        # A worker that stops cold tells so of each task it gives up, without a reason.
        if opened is not None and reason is not None:
            with self.guard:
                adapter.failure(opened.task, opened.run, reason)

    def _run_ended(self, *, task_id: str, state: str | None, retval: Any, **_: Any) -> None:
        opened = self._opened(task_id)
        if opened is None:
            return
        try:
            self._conclude(opened, state, retval)
        finally:
            self._finish(opened)

    def _conclude(self, opened: ActiveRun, state: str | None, result: Any) -> None:
        error = sys.exc_info()[1]
        if error is not None and (state is None or error is not opened.handling):
            # Celery lets it pass: an eager run that propagates, a raising hook, SystemExit.
            self._fail(opened, error)
        elif opened.run.outcome is None:
            try:
                adapter.conclude(opened.task, opened.run, state, result)
            except Exception as failure:
                if not self.guard.swallows(failure):
                    raise

    def _run_broken(self, *, sender: Any, task_id: str, exception: Any, **call: Any) -> None:
        """Celery failed outside the task's body, before the run could be seen."""
        if _last_failure.get() == task_id:
            return  # The run saw it, on its way out; a raising on_failure is called once more.
        with self.guard:
            request = Context(call.get("request") or {}, id=task_id)
            args, kwargs = call.get("args"), call.get("kwargs")
            opened = self._begin(
                sender, adapter.run_of(sender, request, args, kwargs, self._clock())
            )
            self._fail(opened, exception)
            self._finish(opened)

    def _hook_failed(self, error: BaseException) -> None:
        """A hook of the task raised, and Celery kept the outcome: report it beside."""
        opened = _active_run.get()
        if opened is not None:
            outcome = opened.run.outcome or Outcome.SUCCEEDED
            self._fail(opened, error)
            opened.run.outcome = outcome

    def _fail(self, opened: ActiveRun, error: BaseException, traceback: str | None = None) -> None:
        if any(error is reported for reported in opened.reported):
            return
        opened.reported += (error,)
        opened.run.traceback = traceback
        with self.guard:
            adapter.failure(opened.task, opened.run, error)
        if opened.run.outcome is not Outcome.FAILED or opened.run.expected:
            return
        if not isinstance(error, Exception):
            told_here = adapter.process_death(opened.run, error)
            if not told_here:
                return
        self._tell_failed(opened.run)
        _last_failure.set(opened.run.task_id)

    def _tell_failed(self, run: Run) -> None:
        for observer in self._observers:
            with self.guard:
                observer.failed(run)

    def _external_outcome(self, task: Any, request: Any, external: ExternalOutcome) -> None:
        """The worker tells of a run that died, or of a message that never became one."""
        with self.guard:
            now = external.started or self._clock()
            run = adapter.run_of(task, request, request.args, request.kwargs, now)
            adapter.apply_external_outcome(run, external)
            opened = self._begin(task, run)
            if run.exception is not None:
                self._tell_failed(run)
            self._finish(opened)

    def _worker_starts(self, **_: Any) -> None:
        from taskobs.celery.patches.request import RequestPatch  # it imports the worker's modules

        if self._request_patch is None:
            self._request_patch = RequestPatch(self._external_outcome)
            self._request_patch.install()

    def _finish(self, opened: ActiveRun) -> None:
        if opened.token is not None:
            _active_run.reset(opened.token)
        try:
            for ended in self._for_end:
                self._tell_ended(ended, opened.run)
        finally:
            opened.close()

    def _tell_ended(self, ended: Callable[[Run], None], run: Run) -> None:
        try:
            ended(run)
        except Exception as error:
            if not self.guard.swallows(error):
                raise

    def _opened(self, task_id: str) -> ActiveRun | None:
        opened = _active_run.get()
        return opened if opened is not None and opened.run.task_id == task_id else None


def _has(observer: Observer, method: str) -> bool:
    """Tell whether an observer does something of its own there."""
    return getattr(type(observer), method) is not getattr(Observer, method)
