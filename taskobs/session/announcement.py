"""Logs, at the start of a process, where its telemetry goes, and what it lacks."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from taskobs.celery import _compat
from taskobs.celery.roles import Role
from taskobs.celery.watches import FirstPublish
from taskobs.config.settings import Settings
from taskobs.internal.private_names import warn_of_missing
from taskobs.otel import _sdk_compat
from taskobs.otel.app import _compat as _exporter_compat
from taskobs.otel.app import _metrics_compat
from taskobs.otel.app_telemetry import app_meters
from taskobs.otel.instrumentations.activation import Instrumentations
from taskobs.session.environment import AppName
from taskobs.session.errors import Errors
from taskobs.session.spans import Spans

if TYPE_CHECKING:
    from taskobs.session.logs import Logs

_log: Final = logging.getLogger("taskobs")
_NOT_TELEMETRY: Final = frozenset(
    {
        *("enabled", "strict", "log_ids", "log_format", "relay", "relay_providers"),
        *("trace_url", "event_url", "gc_freeze"),
        *("shutdown_timeout", "context_keys", "on_publish", "on_run", "on_run_end"),
    }
)
"""Settings that don't ask for traces or errors by themselves."""
_NAMES: Final = (
    *(*_compat.NAMES, *_sdk_compat.NAMES),
    *(*_exporter_compat.NAMES, *_metrics_compat.NAMES),
)
"""Private names of Celery and OpenTelemetry; those of Sentry are checked when it is first used."""
_CURE: Final = (
    "give init() an otlp_endpoint or a sentry_dsn, or set OTEL_EXPORTER_OTLP_ENDPOINT or SENTRY_DSN"
)


class Announcement:
    """Logs the text of ``describe`` once in each worker, beat and producer, and when it changes.

    ``describe`` returns None when nothing is recorded. The texts of ``remarks`` are logged after
    it, once in a process.
    """

    def __init__(
        self,
        settings: Settings,
        describe: Callable[[], str | None],
        remarks: Callable[[], list[str]],
    ) -> None:
        self._settings = settings
        self._describe = describe
        self._remarks = remarks
        self._remarked = False
        self._said: str | None = None
        self._ready = False
        self._first_publish = FirstPublish(self.say)

    def install(self) -> None:
        """Log it at this process's first publish, unless Celery makes it a worker or beat before.

        By then logging is set up; when ``init()`` is called it rarely is.
        """
        self._first_publish.install()

    def remove(self) -> None:
        """Don't log it at the first publish."""
        self._first_publish.remove()

    def became(self, role: Role) -> None:
        """Handle that this is a Celery process: it logs at its start, or not at all."""
        self.remove()
        if role is Role.POOL_CHILD:
            self._ready = False

    def say(self) -> None:
        """Log it now, and its changes from now on."""
        self._ready = True
        self.changed()
        if not self._remarked:
            for remark in self._remarks():
                self._remarked = True
                _log.info("taskobs: %s", remark)

    def changed(self) -> None:
        """Log it if it has changed since it was last logged; nothing before the first ``say``."""
        if not self._ready:
            return
        text = self._describe()
        if text is not None and text != self._said:
            _log.info("taskobs: %s", text)
        elif text is None and self._said is None:
            self._say_nothing()
        self._said = text or ""

    def _say_nothing(self) -> None:
        wanted = next(filter(None, map(self._settings.given_as, self._names())), None)
        if wanted is None:
            _log.info("taskobs: nothing is configured, so nothing is recorded: %s", _CURE)
        else:
            _log.warning("taskobs: %s is set, but nothing is recorded: %s", wanted, _CURE)

    def _names(self) -> list[str]:
        return [name for name in self._settings.given if name not in _NOT_TELEMETRY]


def destinations(
    settings: Settings,
    spans: Spans,
    errors: Errors,
    *,
    counts: bool,
    logs: Logs | None = None,
) -> str:
    """Return where telemetry goes, as one line; without secrets.

    ``counts`` says that this is a process of a worker whose metrics are exported.
    """
    traces, dsn = spans.provider, errors.destination
    metrics = (_of_metrics(settings) if counts else None) or app_meters()
    parts = [
        f"traces to {traces.destination}" if traces is not None else "traces off",
        f"errors to {dsn}" if dsn is not None else "errors off",
        f"metrics to {metrics}" if metrics is not None else "metrics off",
    ]
    if logs is not None:  # off unless asked for
        parts.append(f"logs to {logs.destination}")
    return ", ".join(parts)


def shared_name(app_name: AppName, spans: Spans) -> str | None:
    """Say which of several apps gave the service its name; None if no app did, or there is one."""
    name = app_name() if spans.named_after_app else None
    others = app_name.others()
    if name is None or not others:
        return None
    return (
        f"the service is called {name!r} after its Celery app, also in what is recorded of "
        f"{', '.join(map(repr, others))}: set service_name or OTEL_SERVICE_NAME for another name"
    )


def instrumented(instrumentations: Instrumentations) -> str | None:
    """Name the libraries whose instrumentors are active by now; None if none is."""
    names = ", ".join(sorted(instrumentations.names))
    return f"instrumented: {names}" if names else None


def warn_of_missing_names() -> None:
    """Log a warning for each private name that an imported module lacks, once a process.

    Call it again when more modules may have been imported.
    """
    warn_of_missing(_NAMES)


def _of_metrics(settings: Settings) -> str | None:
    endpoint, port = settings.shown_metrics_endpoint, settings.metrics_port
    served = None if port is None else f"Prometheus at port {port or 'any'}"
    return " and ".join(filter(None, (endpoint, served))) or None


def warn_of_crons() -> None:
    """Warn that check-ins are enabled but Sentry isn't set up."""
    _log.warning(
        "taskobs: crons is on, and Sentry is not set up in beat (pid %d), so no check-ins are "
        "sent: give init() a sentry_dsn, set SENTRY_DSN, or call sentry_sdk.init()",
        os.getpid(),
    )
