"""A session: from ``init()`` to its ``close()``."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING

from taskobs.celery.process_signals import ProcessSignals
from taskobs.config.settings import Settings, misspelt, resolve
from taskobs.internal.guard import Guard
from taskobs.internal.import_lock import importing, watch_forks
from taskobs.observers.context import accept as accept_context_keys
from taskobs.observers.logs import LogFields
from taskobs.session.environment import AppName, current_run, service_attributes
from taskobs.session.first_use import FirstUse, needed_now

if TYPE_CHECKING:
    from typing_extensions import Self

    from taskobs.celery.patches.logging_setup import LoggingSetup
    from taskobs.celery.roles import Role
    from taskobs.config.task_rules import TaskRule
    from taskobs.metrics.families import Family
    from taskobs.observers.hooks.protocols import PublishHook, RunHook
    from taskobs.session.live import LiveSession

_log = logging.getLogger("taskobs")

_session: Session | None = None


class Session:
    """What one ``init()`` has set up in this process, and in the children forked from it.

    ``close()`` takes it away again; as a context manager it closes at the exit.

    The parts that import an SDK are those of ``LiveSession``. They are set up at the first use of
    them, so a process that publishes and runs nothing starts as fast as without taskobs.
    """

    def __init__(self, settings: Settings, arguments: Mapping[str, object] | None = None) -> None:
        self.settings = settings
        self.arguments = arguments or {}
        self._app_name = AppName()
        self._process = ProcessSignals(self)
        self._first_use = FirstUse(self, settings, self._app_name)
        self._guard = Guard(strict=settings.strict)
        self._live: LiveSession | None = None
        self._log_setup: LoggingSetup | None = None
        self._beginning = self._closed = self._observing = False
        self._undo = ExitStack()

    @property
    def service(self) -> Mapping[str, object]:
        """The attributes of this process's service, as log lines in JSON have them."""
        return service_attributes(self.settings, self._app_name)

    @property
    def role(self) -> Role:
        """What this process is; a producer until Celery says otherwise."""
        from taskobs.celery.roles import Role  # an enumeration, for which few processes have a use

        return Role.PRODUCER if self._live is None else self._live.role

    def __repr__(self) -> str:
        return f"<taskobs.Session of a {self.role.value}: {self.describe()}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def describe(self) -> str:
        """Return in a few words where telemetry goes; without secrets."""
        self.begin()
        return "nothing is recorded" if self._live is None else self._live.describe()

    def flush(self, timeout: float | None = None) -> bool:
        """Send what is pending, for at most ``timeout`` seconds (default: ``shutdown_timeout``).

        Returns whether all was sent in time.
        """
        limit = self.settings.shutdown_timeout if timeout is None else timeout
        if self._live is None and not self._first_use.send(limit):
            self.begin()
        return self._live is None or self._live.flush(timeout)

    def close(self) -> None:
        """Send pending telemetry, within ``shutdown_timeout``, and undo what ``init()`` did."""
        global _session  # noqa: PLW0603  # the one that init() made
        if _session is self:
            _session = None
        self.command_ended()
        self._closed = True
        self.process_ending()
        self._undo.close()

    def suspend(self) -> None:
        """Undo what ``init()`` did, and wait for nothing that is pending; for tests."""
        if self._live is not None:
            self._live.delivery.give_up()
        self._closed = True
        self._undo.close()

    def metric_families(self) -> list[Family]:
        """Return what was counted in this process, where its metrics have somewhere to go."""
        return [] if self._live is None else self._live.metric_families()

    def start(self) -> None:
        """Set up what is configured; called by ``init()``, so that a constructor has no effects.

        Raises:
            MissingExtraError: a setting asks for a package that is not installed.
        """
        if self.settings.metrics_port is not None:
            from taskobs.metrics.prometheus.exposition import require_extra

            require_extra(f"metrics_port={self.settings.metrics_port}")
        undo = self._undo
        try:
            if self.settings.log_ids:  # also with nothing configured: a format may name them
                logs = LogFields(current_run)
                undo.callback(logs.remove)
                logs.install()
            undo.callback(self._close_live)  # before that is undone: it wraps the same methods
            if self.settings.log_format == "json":
                self._format_logs()
            if self.settings.context_keys:
                undo.callback(accept_context_keys, frozenset())
                accept_context_keys(frozenset(self.settings.context_keys))
            if needed_now(self.settings):
                self._begin(errors=True)
            else:
                self._wait()
            undo.callback(self._process.unsubscribe)
            self._process.subscribe()
        except BaseException:
            undo.close()
            raise

    def _format_logs(self) -> None:
        from taskobs.celery.patches.logging_setup import LoggingSetup
        from taskobs.session.log_format import JsonFormatter

        setup = self._log_setup = LoggingSetup(JsonFormatter(), self._guard)
        self._undo.callback(setup.remove)
        setup.install()

    def _wait(self) -> None:
        if self.settings.traces or self.settings.errors:
            self.observe()
        self._undo.callback(self._first_use.remove)
        watch_forks()
        self._first_use.install()

    def observe(self) -> None:
        """Watch the end of the process."""
        if not self._observing:
            self._observing = True
            self._process.watch_end()

    def _begin(self, *, errors: bool) -> None:
        from taskobs.celery.patches.embedded_beat import EmbeddedBeat
        from taskobs.session.api.hooks import Hooks
        from taskobs.session.live import LiveSession

        live = LiveSession(self.settings, self._app_name, EmbeddedBeat(init, self.arguments), self)
        self._first_use.traces_begin()  # before there are patches of the same methods
        if errors:
            self._first_use.errors_begin()
        live.start(errors=errors)
        self._live = live
        hooks = Hooks(self.settings)
        self._undo.callback(hooks.remove)
        hooks.install()
        self._first_use.repeat()

    def _close_live(self) -> None:
        live, self._live = self._live, None
        if live is not None:
            live.close()

    # First uses: see taskobs.session.first_use.Listener.

    def begin(self, *, errors: bool = False, wait: bool = True) -> None:
        """Set up what is configured, with a Sentry client only if ``errors``; never raises.

        Another thread may be doing that now. Then this one waits for it, or returns at once.
        """
        with self._guard, importing(wait=wait) as alone:
            if not alone or self._beginning or self._closed:
                return
            self._beginning = True
            try:
                if self._live is None:
                    self._begin(errors=errors)
                elif errors:
                    self._first_use.errors_begin()
                    self._live.begin_errors()
                if errors:
                    if self._observing:
                        # Again, to be called before Sentry's own exit hook, which drops what is
                        # not sent by then.
                        self._process.watch_end()
                    self._first_use.errors_begun()
            finally:
                self._beginning = False

    def command_ended(self) -> None:
        """Send what a command has published without the SDK; if that fails, set the SDK up.

        That has what remains of ``shutdown_timeout``, at least half of it.
        """
        began = time.monotonic()
        if self._live is not None:
            self._first_use.repeat()  # another thread has set it up while that was published
        elif not self._first_use.send(self.settings.shutdown_timeout / 2):
            spent = time.monotonic() - began  # before the imports, which may take longer
            self.begin()
            if self._live is not None:
                self._live.delivery.spent(spent)

    # Events of the process: see taskobs.celery.process_signals.ProcessListener.

    def became(self, role: Role, worker: object = None) -> None:
        """Handle that Celery's signals gave the role of this process."""
        self.begin(errors=True)
        if self._live is not None:
            self._live.became(role, worker)

    def ready(self) -> None:
        """Log where telemetry goes, now that logging and the app's own libraries are set up."""
        if self._log_setup is not None:
            self._log_setup.apply()  # logging may have been set up before init(), or since
        if self._live is not None:
            self._live.ready()

    def worker_ended(self) -> None:
        """Send what is pending and end the relay: after SIGHUP, the worker executes itself anew."""
        if self._live is not None:
            self._live.worker_ended()

    def process_ending(self) -> None:
        """Send what is pending; all calls together take at most ``shutdown_timeout``."""
        self.command_ended()
        if self._live is not None:
            self._live.process_ending()


def init(  # noqa: PLR0913  # one argument a setting, all keywords
    *,
    service_name: str | None = None,
    otlp_endpoint: str | None = None,
    otlp_protocol: str | None = None,
    otlp_headers: object = None,
    sample_rate: float | None = None,
    keep: Iterable[str] | None = None,
    sentry_dsn: str | None = None,
    resource: object = None,
    environment: str | None = None,
    release: str | None = None,
    send_arguments: bool | None = None,
    tasks: Mapping[str, TaskRule] | None = None,
    crons: bool | None = None,
    crons_exclude: Iterable[str] | None = None,
    crons_options: Mapping[str, Mapping[str, object]] | None = None,
    on_publish: PublishHook | None = None,
    on_run: RunHook | None = None,
    on_run_end: RunHook | None = None,
    context_keys: Iterable[str] | None = None,
    instrument: bool | Iterable[str] | None = None,
    metrics_port: int | None = None,
    metrics_address: str | None = None,
    metric_buckets: Mapping[str, Sequence[float]] | None = None,
    stock_attributes: bool | None = None,
    log_ids: bool | None = None,
    logs: str | None = None,
    log_format: str | None = None,
    trace_url: str | None = None,
    event_url: str | None = None,
    relay: bool | None = None,
    relay_providers: bool | None = None,
    relay_spool: str | None = None,
    relay_spool_bytes: int | None = None,
    relay_spool_age: float | None = None,
    gc_freeze: bool | None = None,
    shutdown_timeout: float | None = None,
    strict: bool | None = None,
    enabled: bool | None = None,
) -> Session:
    """Make Celery observable in this process and in those forked from it.

    Call it next to ``Celery(...)``, where the web process, the worker, beat and the shell all
    import it. Each argument has a variable; docs/reference/settings.md has them all. A second call
    returns the session of the first. With nothing configured it says so once, at INFO, and
    only log records get their fields, which are empty then.

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
    session = Session(settings, arguments)
    if settings.enabled:
        for warning in misspelt(os.environ):
            _log.warning("taskobs: %s", warning)
        session.start()
    _session = session
    return session


def current_session() -> Session | None:
    """Return this process's session; None before ``init()`` and after its ``close()``."""
    return _session


def replace_session(session: Session | None) -> None:
    """Make this the process's session; neither it nor the one before is started or ended."""
    global _session  # noqa: PLW0603  # the one that init() would return
    _session = session


def is_disabled() -> bool:
    """Tell whether this process's session is one that changes nothing; False without one."""
    return _session is not None and not _session.settings.enabled


def current_settings() -> Settings:
    """Return the settings of this process's session; without one, those that the variables give."""
    return resolve({}, os.environ) if _session is None else _session.settings


def current_service() -> Mapping[str, object]:
    """Return the attributes of this process's service; none without a session."""
    return {} if _session is None else _session.service
