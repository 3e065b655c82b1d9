"""The session of a test: the app's settings, with nothing exported."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Final

from taskobs.celery.roles import Role
from taskobs.config.settings import SDK_DISABLED, Settings
from taskobs.session.session import Session, current_settings, replace_session

DSN: Final = "https://test@sentry.invalid/1"
"""Of a client whose envelopes the test gets. The domain can't exist (RFC 2606)."""


def settings_of_test() -> Settings:
    """Return the settings of the app's session, or else of the variables, as a test uses them.

    Nothing is exported, each trace is sampled, and there is no relay.
    """
    return replace(
        current_settings(),
        enabled=True,
        otlp_endpoint=None,
        traces_endpoint=None,
        metrics_endpoint=None,
        logs_endpoint=None,
        otlp=False,
        traces=False,
        other_exporters=(),
        sample_rate=None,
        keep=None,
        sentry_dsn=DSN,
        errors=True,
        metrics=True,
        metrics_port=None,
        relay=False,
        relay_spool=None,
        logs=None,
        log_format=None,
    )


@contextmanager
def sdk_enabled() -> Generator[None]:
    """Make OpenTelemetry's SDK work in a block where the variables of the tests disable it.

    Its providers read that when they are made.
    """
    given = os.environ.pop(SDK_DISABLED, None)
    try:
        yield
    finally:
        if given is not None:
            os.environ[SDK_DISABLED] = given


@contextmanager
def session_of_test(settings: Settings) -> Generator[Session]:
    """Have a session of a test's in a block, in the place of the app's, which was suspended."""
    session = Session(settings)
    try:
        session.start()
        replace_session(session)
        session.begin(errors=True)
        for worker in embedded_workers():
            session.became(Role.WORKER, worker)
            _count_anew(worker)
        yield session
    finally:
        session.close()


def _count_anew(worker: Any) -> None:  # noqa: ANN401  # Celery's object
    """Have a worker that runs already count what it receives for this session."""
    consumer: Any = getattr(worker, "consumer", None)
    if getattr(consumer, "strategies", None):
        # They keep the counters that they were made with.
        consumer.update_strategies()


@contextmanager
def app_session_suspended() -> Generator[None]:
    """Suspend the session that the app has made, if it has; it is set up again after the block."""
    app = replace_session(None)
    if app is not None and app.settings.enabled:
        app.suspend()
    try:
        yield
    finally:
        replace_session(app)
        if app is not None and app.settings.enabled:
            Session.__init__(app, app.settings, app.arguments)  # as if it had not been used yet
            app.start()


def embedded_workers() -> list[Any]:
    """Return the workers (Celery's objects) that run in a thread of this process.

    ``celery.contrib.testing`` starts them so, maybe before the fixture was set up. No registry has
    them; a thread keeps what it runs in ``_target`` until that ends (seen in Python 3.10 to 3.14).
    """
    module = sys.modules.get("celery.worker.worker")
    kind: type | None = getattr(module, "WorkController", None)
    if kind is None:
        return []
    targets = (getattr(thread, "_target", None) for thread in threading.enumerate())
    return [one for one in (getattr(t, "__self__", None) for t in targets) if isinstance(one, kind)]
