"""Finds what a process already has: a Sentry client, Celery apps, a run."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final
from weakref import ref

from taskobs.celery import _compat
from taskobs.config.settings import Settings

if TYPE_CHECKING:
    from sentry_sdk.client import BaseClient

    from taskobs.celery._types import App
    from taskobs.model import Run

SERVICE_NAME: Final = "service.name"
SERVICE_VERSION: Final = "service.version"
ENVIRONMENT: Final = "deployment.environment.name"
_ACTIVE: Final = "taskobs.celery.active"


def active_client() -> BaseClient | None:
    """Return Sentry's client if Sentry was initialised; never imports Sentry."""
    sdk = sys.modules.get("sentry_sdk")
    # While another thread imports the package, its module exists without its functions.
    get_client = getattr(sdk, "get_client", None)
    client: BaseClient | None = get_client() if get_client is not None else None
    return client if client is not None and client.is_active() else None


def current_run() -> Run | None:
    """Return the run that this thread or greenlet is in; never imports what runs tasks."""
    # While another thread imports the module, it exists without its functions.
    current: Any = getattr(sys.modules.get(_ACTIVE), "current_run", None)
    run: Run | None = None if current is None else current()
    return run


class AppName:
    """The name of this process's Celery app, once there is one.

    A worker's signals give its app. In other processes it is the app that existed when ``init()``
    was called, or else the first one that exists when the name is read.
    """

    def __init__(self) -> None:
        self._app: ref[App] | None = None
        self.use(_compat.current_app())

    def use(self, app: App | None) -> None:
        """Set the process's app."""
        if app is not None:
            self._app = ref(app)

    def __call__(self) -> str | None:
        """Return the name; None while no app has one."""
        app = self._app() if self._app is not None else None
        if app is None:
            app = _compat.current_app()
            self.use(app)
        return app.main if app is not None else None

    def others(self) -> list[str]:
        """Return the names of the process's other apps."""
        return sorted(_compat.app_names() - {self()})


def service_attributes(settings: Settings, app_name: AppName) -> Mapping[str, object]:
    """Return the attributes of this process's service, for a log; needs no SDK."""
    found: dict[str, object] = dict(settings.resource or {})
    named = settings.given.get("service_name") == "argument" or SERVICE_NAME not in found
    if settings.service_name and named:
        found[SERVICE_NAME] = settings.service_name
    found.setdefault(SERVICE_NAME, app_name() or "celery")
    for name, value in ((SERVICE_VERSION, settings.release), (ENVIRONMENT, settings.environment)):
        if value:
            found.setdefault(name, value)
    return found
