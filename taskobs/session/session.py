"""A session: from ``init()`` to its ``close()``."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from types import TracebackType
from typing import TYPE_CHECKING

from taskobs.celery.outages import Outages
from taskobs.celery.patches.embedded_beat import EmbeddedBeat
from taskobs.celery.process_signals import ProcessSignals, at_process_end, runs_no_tasks
from taskobs.celery.roles import Role
from taskobs.celery.run_signals import current_run
from taskobs.config.settings import Settings, misspelt, resolve
from taskobs.internal.hidden_modules import hidden_modules
from taskobs.internal.timeouts import run_with_timeout
from taskobs.observers.logs import LogFields
from taskobs.otel.instrumentor_patch import InstrumentorPatch, is_instrumented
from taskobs.otel.provider import TraceProvider
from taskobs.otel.task_spans import TaskSpans, shared_task_signals
from taskobs.session.environment import app_name, has_provider, sentry_is_active
from taskobs.session.worker_relay import WorkerRelay

if TYPE_CHECKING:
    from typing_extensions import Self

    from taskobs.sentry.pipeline import SentryPipeline

_log = logging.getLogger("taskobs")

_session: Session | None = None


class Session:
    """What one ``init()`` has set up in this process, and in the children forked from it.

    ``close()`` takes it away again; as a context manager it closes at the exit.
    """

    def __init__(self, settings: Settings, arguments: Mapping[str, object] | None = None) -> None:
        self.settings = settings
        self._embedded = EmbeddedBeat(init, arguments or {})
        self.role = Role.PRODUCER
        self._undo = ExitStack()
        self._traces: TraceProvider | None = None
        self._sentry: SentryPipeline | None = None
        self._outages = Outages()
        self._relay = WorkerRelay(settings)
        self._deadline: float | None = None

    def __repr__(self) -> str:
        return f"<taskobs.Session of a {self.role.value}: {self.describe()}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def describe(self) -> str:
        """Say in a few words where telemetry goes; no secrets."""
        traces = "on" if self._traces else "off"
        errors = "on" if self._sentry else "off"
        return f"traces {traces}, errors {errors}"

    def flush(self, timeout: float | None = None) -> bool:
        """Send what there is, for at most ``timeout`` seconds (``shutdown_timeout`` by default).

        Returns whether all was sent in time.
        """
        timeout = self.settings.shutdown_timeout if timeout is None else timeout
        return self._deliver(timeout, self._relay.flush)

    def _deliver(self, timeout: float, hand_over: Callable[[float], bool]) -> bool:
        """Send what this process sends itself, then have done what is to be done at the relay."""
        end = time.monotonic() + timeout
        carried = self._relay.carries
        sent = self._send(timeout)
        handed = hand_over(max(0.0, end - time.monotonic()))
        if carried and not self._relay.carries:  # it has gone, and left all to this process
            sent = self._send(max(0.0, end - time.monotonic()))
        return sent and handed

    def _send(self, timeout: float) -> bool:
        """Send what goes to no relay."""
        jobs: list[Callable[[], object]] = []
        relayed, sentry = self._relay.carries, self._sentry
        if self._traces is not None and not (relayed and self._traces.ours):
            jobs.append(self._traces.flush)
        if sentry is not None and not relayed:
            jobs.append(lambda: sentry.flush(timeout))
        elif sentry is not None:
            sentry.flush(timeout)  # what Sentry itself has gathered goes to the relay
        return run_with_timeout(timeout, *jobs) if jobs else True

    def close(self) -> None:
        """Send what is left, within ``shutdown_timeout``, and undo what ``init()`` did."""
        global _session  # noqa: PLW0603  # the one that init() made
        if _session is self:
            _session = None
        self.process_ending()
        self._undo.close()

    # Set-up.

    def start(self) -> None:
        """Set up what is configured; ``init()`` calls it, as a constructor has no effect."""
        with ExitStack() as undo:
            self._start_pipelines(undo)
            if self._traces is not None or self._sentry is not None:
                self._observe(undo)
            else:
                _log.info(
                    "taskobs: nothing is configured, so nothing is recorded: give init() an "
                    "otlp_endpoint or a sentry_dsn, or set OTEL_EXPORTER_OTLP_ENDPOINT "
                    "or SENTRY_DSN"
                )
            self._undo = undo.pop_all()

    def _start_pipelines(self, undo: ExitStack) -> None:
        settings = self.settings
        if settings.traces or has_provider():
            traces = TraceProvider.start(
                settings, app_name(), lambda: at_process_end(self.process_ending)
            )
            undo.callback(lambda: run_with_timeout(self._left(), traces.stop))
            undo.callback(traces.withdraw)
            self._traces = traces
        if settings.errors or sentry_is_active():
            self._start_errors(undo)

    def _start_errors(self, undo: ExitStack) -> None:
        with hidden_modules(
            "gevent", "eventlet"
        ):  # which Sentry asks whether they have patched anything
            from taskobs.observers.sentry import SentryObserver
            from taskobs.sentry.pipeline import SentryPipeline

        undo.callback(self._outages.close)
        self._sentry = SentryPipeline.start(self.settings, self._outages.repeats)
        undo.callback(self._sentry.close, 0.0)
        errors = SentryObserver(self._sentry, send_arguments=self.settings.send_arguments)
        shared_task_signals().attach(errors)
        undo.callback(shared_task_signals().detach, errors)
        if self.settings.crons:
            self._start_crons(undo, self._sentry)

    def _start_crons(self, undo: ExitStack, sentry: SentryPipeline) -> None:
        from taskobs.observers.crons import CronObserver

        crons = CronObserver(
            sentry,
            exclude=self.settings.crons_exclude or (),
            options=self.settings.crons_options,
        )
        shared_task_signals().attach(crons)
        undo.callback(shared_task_signals().detach, crons)

    def _observe(self, undo: ExitStack) -> None:
        guard = shared_task_signals().guard
        undo.callback(setattr, guard, "strict", guard.strict)
        guard.strict = self.settings.strict
        if self._traces is not None and not is_instrumented():
            spans = TaskSpans.start(stock_attributes=self.settings.stock_attributes)
            undo.callback(spans.stop)
            instrumentor_patch = InstrumentorPatch(spans, guard)
            undo.callback(instrumentor_patch.remove)
            instrumentor_patch.install()
        if self.settings.log_ids:
            logs = LogFields(current_run)
            logs.install()
            undo.callback(logs.remove)
        process = ProcessSignals(self)
        process.subscribe()
        undo.callback(process.unsubscribe)
        undo.callback(self._embedded.remove)
        undo.callback(self._relay.close)

    # What becomes of the process: see taskobs.processes.ProcessListener.

    def became(self, role: Role, worker: object = None) -> None:
        """Celery has told the role of this process."""
        self.role = role
        if self._sentry is None and sentry_is_active():  # the app initialised it after us
            self._start_errors(self._undo)
        if self._sentry is not None:
            self._sentry.client()  # the app's, before it sees a run
            self._watch_outages(role)
            if runs_no_tasks(worker):
                self._sentry.ignore_broker_commands()
        if role is Role.WORKER:
            self._embedded.install()
        self._relay.became(role, worker, self._traces, self._sentry)
        if role in {Role.WORKER, Role.POOL_CHILD} and self._traces and not self._relay.carries:
            self._traces.prepare()

    def _watch_outages(self, role: Role) -> None:
        if role is Role.WORKER:
            self._outages.watch_worker()
        elif role is Role.BEAT:
            self._outages.watch_beat()

    def forked(self) -> None:
        """Leave alone what the parent has started: this is a child."""
        self._deadline = None
        if self._traces is not None:
            self._traces.after_fork()
        if self._sentry is not None:
            self._sentry.after_fork()
        self._relay.after_fork()
        self._outages.after_fork()

    def worker_ended(self) -> None:
        """Send what is left, and end the relay: a worker that got SIGHUP is executed anew next."""
        self.process_ending()
        self._relay.close()
        self._deadline = 0.0 if self._deadline == 0.0 else None

    def process_ending(self) -> None:
        """Send what is left; all calls in a process together take at most ``shutdown_timeout``."""
        left = self._left()
        if left > 0 and not self._deliver(left, self._relay.end):
            self._deadline = 0.0  # a backend that is dead now gets no second wait
            _log.warning(
                "taskobs: process %d ends with telemetry unsent: no answer within %.1f s",
                os.getpid(),
                self.settings.shutdown_timeout,
            )

    def _left(self) -> float:
        """Return how many seconds this process, which ends, may still spend on sending."""
        if self._deadline is None:
            self._deadline = time.monotonic() + self.settings.shutdown_timeout
        return max(0.0, self._deadline - time.monotonic())


def init(  # noqa: PLR0913  # one argument a setting, all keywords
    *,
    service_name: str | None = None,
    otlp_endpoint: str | None = None,
    otlp_protocol: str | None = None,
    otlp_headers: object = None,
    sample_rate: float | None = None,
    sentry_dsn: str | None = None,
    environment: str | None = None,
    release: str | None = None,
    send_arguments: bool | None = None,
    crons: bool | None = None,
    crons_exclude: Iterable[str] | None = None,
    crons_options: Mapping[str, Mapping[str, object]] | None = None,
    stock_attributes: bool | None = None,
    log_ids: bool | None = None,
    relay: bool | None = None,
    relay_spool: str | None = None,
    relay_spool_bytes: int | None = None,
    relay_spool_age: float | None = None,
    shutdown_timeout: float | None = None,
    strict: bool | None = None,
    enabled: bool | None = None,
) -> Session:
    """Make Celery observable in this process and in those forked from it.

    Call it next to ``Celery(...)``, where the web process, the worker, beat and the shell all
    import it. Each argument has a variable; the README's table has them all. A second call
    returns the session of the first. With nothing configured it says so once, at INFO, and
    nothing is installed.

    Returns:
        The session, which ``close()`` undoes; also usable in ``with``.

    Raises:
        SettingError: a setting has a value that cannot work; it names the value and the fix.
        MissingExtraError: a setting asks for a package that is not installed.
    """
    global _session  # noqa: PLW0603  # twice is once
    arguments = {name: value for name, value in locals().items() if value is not None}
    if _session is not None:
        if arguments:
            _log.warning("taskobs: init() was called before; its settings stay until close()")
        return _session
    settings = resolve(arguments, os.environ)
    for warning in misspelt(os.environ):
        _log.warning("taskobs: %s", warning)
    session = Session(settings, arguments)
    if settings.enabled:
        session.start()
    _session = session
    return session
