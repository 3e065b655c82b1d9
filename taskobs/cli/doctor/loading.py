"""Loads an app as a worker would, and finds how it is configured."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from typing import Final

from taskobs.cli.doctor.checks.environment import TESTED
from taskobs.cli.doctor.evidence import Evidence
from taskobs.config.settings import Settings, resolve
from taskobs.errors import MissingExtraError, SettingError

_CAUSES: Final = 10
"""How deep an error's causes are followed: they may form a circle."""


def load(evidence: Evidence) -> None:
    """Import the app, and find the session of its ``init()``."""
    from taskobs.monitor.loading import AppNotFound, load_app
    from taskobs.session import session

    try:
        app = load_app(evidence.name)
        _set_up_django(evidence.name)
        evidence.app = app
    except AppNotFound as error:
        evidence.load_error = error
        evidence.setting_error = _setting_error(error)
    except SystemExit as error:
        evidence.load_error = AppNotFound(f"{evidence.name!r} ends the process: {error}")
    evidence.session = session.current_session()


def _set_up_django(name: str) -> None:
    """Set Django up, as Celery does where a worker starts: backends and tasks need its models.

    Raises:
        AppNotFound: its settings don't work.
    """
    from taskobs.monitor.loading import AppNotFound

    django = sys.modules.get("django")
    if django is None or not os.environ.get("DJANGO_SETTINGS_MODULE"):
        return
    try:
        django.setup()
    except Exception as error:
        raise AppNotFound(f"Django can't be set up for {name!r}: {error}") from error


def _setting_error(error: BaseException) -> SettingError | MissingExtraError | None:
    """Return the error of ``init()`` that an import failed by; Celery wraps it as its own."""
    found: BaseException | None = error
    for _ in range(_CAUSES):
        if found is None or isinstance(found, (SettingError, MissingExtraError)):
            return found
        found = found.__cause__ or found.__context__
    return None


def configure(evidence: Evidence) -> None:
    """Find what is configured: by the app's session, or by the variables alone."""
    if evidence.session is None:
        try:
            evidence.settings = resolve({}, evidence.environ)
        except SettingError as error:
            evidence.setting_error = evidence.setting_error or error
        return
    evidence.settings = evidence.session.settings
    if evidence.settings.enabled:
        _describe(evidence, evidence.session.describe())


def _describe(evidence: Evidence, text: str) -> None:
    from taskobs.otel._sdk_compat import global_provider
    from taskobs.otel.own_provider import OwnProvider
    from taskobs.session.environment import active_client

    provider, client = global_provider(), active_client()
    evidence.provider = None if isinstance(provider, OwnProvider) else provider
    evidence.sentry = dict(client.options) if client is not None else {}
    settings = evidence.settings
    goes = settings is not None and (settings.errors or settings.metrics or settings.logs_endpoint)
    if evidence.spans or evidence.sentry or goes:
        evidence.destination = text.replace("metrics off", _metrics(evidence.settings))


def _metrics(settings: Settings | None) -> str:
    """Say where workers send metrics: this process, which is no worker, sends none."""
    if settings is None or not settings.metrics:
        return "metrics off"
    return f"metrics to {settings.shown_metrics_endpoint or 'Prometheus'}"


def versions() -> Iterator[tuple[str, str]]:
    """Yield the releases of Python and of the packages that taskobs needs."""
    yield "Python", ".".join(map(str, sys.version_info[:3]))
    for name in TESTED:
        with suppress(PackageNotFoundError):
            yield name, version(name)


def relay_problem(settings: Settings | None) -> str | None:
    """Return why no worker's relay can start here; None if one can."""
    from taskobs.relay_client import relay_command, socket_directory

    if settings is not None and not settings.relay:
        return None
    if not socket_directory.SUPPORTED:
        return "this platform has no Unix sockets"
    try:
        relay_command.command("doctor")
        socket_directory.directory(os.environ)
    except OSError as error:
        return str(error)
    return None
