"""What a session sets up in its process, from the first use of it to the session's end."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from threading import Lock
from typing import TYPE_CHECKING, Protocol

from taskobs.celery.patches.embedded_beat import EmbeddedBeat
from taskobs.celery.patches.frozen_objects import FrozenObjects
from taskobs.celery.process_signals import at_process_end, runs_no_tasks
from taskobs.celery.roles import Role
from taskobs.celery.watches import FailureWatch
from taskobs.celery.worker_timer import RunningWorker
from taskobs.config.settings import Settings
from taskobs.internal import forksafe
from taskobs.internal.forksafe import ForkStep
from taskobs.otel.app_telemetry import flushes_of_app
from taskobs.otel.instrumentations.activation import Instrumentations
from taskobs.otel.instrumentations.single_apps import single_apps
from taskobs.otel.task_spans import shared_task_signals
from taskobs.session.announcement import (
    Announcement,
    destinations,
    instrumented,
    shared_name,
    warn_of_crons,
    warn_of_missing_names,
)
from taskobs.session.delivery import Delivery
from taskobs.session.environment import AppName
from taskobs.session.errors import Errors
from taskobs.session.late_setup import LateSetup
from taskobs.session.metrics.by_role import Metrics
from taskobs.session.spans import Spans
from taskobs.session.worker_relay import WorkerRelay

if TYPE_CHECKING:
    from opentelemetry.trace import TracerProvider

    from taskobs.session.logs import Logs


class Host(Protocol):
    """The session that this one works for."""

    def observe(self) -> None:
        """Watch the end of the process, and add fields to log records: something is recorded."""
        ...

    def begin(self, *, errors: bool) -> None:
        """Call ``begin_errors`` if there is a use for it; never raises."""
        ...


class LiveSession:
    """What one ``init()`` has set up in this process, and in the children forked from it.

    ``start`` sets it up, ``close`` takes it away again. Until ``begin_errors`` is called, a DSN
    alone does not make a Sentry client.
    """

    def __init__(
        self, settings: Settings, app_name: AppName, embedded: EmbeddedBeat, host: Host
    ) -> None:
        self.settings = settings
        self.role = Role.PRODUCER
        self._app_name = app_name
        self._embedded = embedded
        self._host = host
        self._spans = Spans(settings, app_name, lambda: at_process_end(self.process_ending))
        self._logs = self._make_logs() if settings.logs_endpoint is not None else None
        self._errors = Errors(settings, lambda: host.begin(errors=True))
        self._relay = WorkerRelay(settings)
        self._running = RunningWorker(self._tick)
        self._metrics = Metrics(self, app_name, self._spans, self._relay, self._running)
        self.metric_families = self._metrics.families
        self.delivery = Delivery(self._flushes, self._relay, settings.shutdown_timeout)
        self._instrumentations = Instrumentations(settings.instrument)
        self._announcement = Announcement(settings, self._where, self._remarks)
        self._observing = self._look_again = False
        self._looking = Lock()
        self._undo = ExitStack()

    def describe(self) -> str:
        """Return in a few words where telemetry goes; without secrets."""
        found = self._spans, self._errors
        return destinations(self.settings, *found, counts=self._metrics.exported, logs=self._logs)

    def flush(self, timeout: float | None = None) -> bool:
        """Send what is pending, for at most ``timeout`` seconds (default: ``shutdown_timeout``).

        Returns whether all was sent in time.
        """
        return self.delivery.flush(timeout)

    def close(self) -> None:
        """Send pending telemetry, within ``shutdown_timeout``, and undo what ``start`` did."""
        self.process_ending()
        self._undo.close()

    def _flushes(self, timeout: float) -> list[Callable[[], object]]:
        """Return calls that export from this process what no relay sends; each may block."""
        relayed = self._relay.carries
        traces = self._spans.provider
        jobs = traces.flushes(timeout, relayed=relayed) if traces is not None else []
        jobs += self._errors.flushes(timeout, relayed=relayed)
        if self._logs is not None:
            jobs += self._logs.flushes(relayed=relayed)
        if self.role is Role.POOL_CHILD:
            jobs += flushes_of_app(timeout)
        return jobs + self._metrics.flushes()

    # Set-up.

    def start(self, *, errors: bool) -> None:
        """Set up what is configured; without ``errors``, no Sentry client before ``begin_errors``.

        Raises what a setting may cause that can be checked only now.
        """
        undo, guard = self._undo, shared_task_signals().guard
        failures = FailureWatch(shared_task_signals(), self._reports_now)
        late_setup = LateSetup(self, self._metrics.look)
        try:
            undo.callback(setattr, guard, "strict", guard.strict)
            guard.strict = self.settings.strict
            undo.callback(lambda: self._spans.stop(self.delivery.left()))
            undo.callback(self._errors.stop)
            self._start_logs()
            if self.settings.gc_freeze:
                undo.enter_context(FrozenObjects())
            undo.callback(failures.remove)
            failures.install()
            undo.callback(single_apps.stop)
            undo.callback(self._instrumentations.stop)
            undo.callback(self._announcement.remove)
            self._announcement.install()
            undo.callback(forksafe.remove, self)
            forksafe.add(self, ForkStep.SESSION)
            undo.callback(self._embedded.remove)
            undo.callback(self._metrics.stop)
            undo.callback(self._relay.close)
            undo.callback(self._running.stop_timer)
            self._errors.wait(until_needed=not errors)
            self._look()
            # After the other observers: the first one that is attached is shown the run or publish
            # that has begun, and those that are attached after it are not.
            self._metrics.start()
            undo.callback(late_setup.remove)
            late_setup.install()
        except BaseException:
            undo.close()
            raise

    def _make_logs(self) -> Logs:
        from taskobs.session.logs import Logs  # which few ask for

        return Logs(self.settings, self._app_name, lambda: self._spans.provider)

    def _start_logs(self) -> None:
        logs = self._logs
        if logs is not None:
            self._undo.callback(lambda: logs.stop(self.delivery.left()))
            logs.start()
            self.observe()

    def begin_errors(self) -> None:
        """Report errors from now on, if there is a DSN."""
        self._errors.wait(until_needed=False)
        self.look()

    # What the app sets up after ``init()``: ``LateSetup`` calls these methods.

    def may_set(self, provider: TracerProvider) -> bool:
        """Tell whether the app may replace our provider now."""
        with shared_task_signals().guard:
            return self._spans.may_set(provider)
        return True

    def look(self) -> None:
        """Use the provider and the client that the app has set up; never raises into the app."""
        with shared_task_signals().guard:
            self._look()

    def _look(self) -> None:
        # Not reentrant: `_adopt` sets up a client, which calls `look` again on this thread, and
        # another thread may call it at the same time. Both find the lock taken and only leave the
        # flag set, for which the lock's holder repeats the loop.
        self._look_again = True
        while self._look_again and self._looking.acquire(blocking=False):
            try:
                self._look_again = False
                self._adopt()
            finally:
                self._looking.release()

    def _adopt(self) -> None:
        spans, errors = self._spans.look(), self._errors.look()
        if spans or errors:
            self.observe()
            self._catch_up()
        if self._spans.provider is not None:
            self._instrumentations.start()
        self._announcement.changed()

    def observe(self) -> None:
        """Watch the process from now on: something is recorded."""
        if self._observing:
            return
        self._observing = True
        warn_of_missing_names()
        self._host.observe()

    def _catch_up(self) -> None:
        """Repeat for the new observers what happened when this process's role became known."""
        if self._running.worker is not None:
            shared_task_signals().worker_runs(self._running.worker)
        elif self.role is Role.BEAT:
            shared_task_signals().beat_runs()
        traces, worker = self._spans.provider, self._running.worker
        self._relay.became(self.role, worker, traces, self._errors.pipeline, self._logs)
        if self._relay.carries:
            self._spans.relayed()
        if self.role in {Role.WORKER, Role.POOL_CHILD}:
            self._spans.of_worker(relayed=self._relay.carries)
        if self._logs is not None and self.role is not Role.PRODUCER:
            self._logs.role_is_known()
        self._metrics.look()

    def _reports_now(self) -> bool:
        """Start reporting errors if that is possible now; tell whether this call started it."""
        if self._errors.pipeline is not None:
            return False
        self.look()
        return self._errors.pipeline is not None

    def _where(self) -> str | None:
        found = self._spans.provider, self._errors.destination, self._logs
        recorded = self._metrics.of_worker or any(one is not None for one in found)
        return self.describe() if recorded else None

    def _remarks(self) -> list[str]:
        service = shared_name(self._app_name, self._spans)
        return [text for text in (service, instrumented(self._instrumentations)) if text]

    # Events of the process: see taskobs.celery.process_signals.ProcessListener.

    def became(self, role: Role, worker: object = None) -> None:
        """Handle that Celery's signals gave the role of this process."""
        self.role = role
        self._announcement.became(role)
        if role is Role.WORKER:
            self._became_worker(worker)
        else:
            self._running.worker = None
        self._errors.became(role, forks=runs_no_tasks(worker))
        self.look()
        with shared_task_signals().guard:
            self._metrics.became(role, worker)
            if self._observing:
                self._catch_up()
            elif self._relay.starts_early(role, worker):
                self.observe()

    def _became_worker(self, worker: object) -> None:
        self._app_name.use(getattr(worker, "app", None))
        self._embedded.install()
        self._running.began(worker)

    def _tick(self) -> None:
        """Poll what no signal announces; called once a second in a worker's main process."""
        self._relay.poll()
        self._metrics.tick()
        if self._errors.offered:
            self.look()

    def ready(self) -> None:
        """Log where telemetry goes, now that logging and the app's own libraries are set up."""
        self.look()
        if self._observing:
            warn_of_missing_names()  # also of what Celery has imported by now, such as a backend
        self._metrics.tick()
        self._announcement.say()
        if self.role is Role.BEAT and self.settings.crons and self._errors.destination is None:
            warn_of_crons()

    def after_fork(self) -> None:
        """In a forked child: forget the parent's lock, worker and timer."""
        self._looking = Lock()  # another thread of the parent may have held it
        self._look_again = False
        self._running.after_fork()
        self.delivery.restart()

    def worker_ended(self) -> None:
        """Send what is pending and end the relay: after SIGHUP, the worker executes itself anew."""
        self.process_ending()
        self._running.stop_timer()
        self._relay.close()
        self._metrics.worker_ended()
        self._running.worker = None
        self.delivery.go_on()

    def process_ending(self) -> None:
        """Send what is pending; all calls together take at most ``shutdown_timeout``."""
        self.delivery.end()
