"""What a session finds in its process: a Sentry client, apps."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING
from weakref import ref

from taskobs.celery import _compat
from taskobs.celery._types import App

if TYPE_CHECKING:
    from sentry_sdk.client import BaseClient


def active_client() -> BaseClient | None:
    """Return Sentry's client, if somebody has initialised Sentry; it is not imported for that."""
    sdk = sys.modules.get("sentry_sdk")
    # While the package is being imported, its module is there and its functions are not.
    get_client = getattr(sdk, "get_client", None)
    client: BaseClient | None = get_client() if get_client is not None else None
    return client if client is not None and client.is_active() else None


class AppName:
    """The name of the Celery app that this process is of, as soon as it is known.

    A worker's app is known; in other processes it is the one that was there when ``init()`` was
    called, or else the first one that is there when somebody asks.
    """

    def __init__(self) -> None:
        self._app: ref[App] | None = None
        self.use(_compat.current_app())

    def use(self, app: App | None) -> None:
        """Take this app for the process's."""
        if app is not None:
            self._app = ref(app)

    def __call__(self) -> str | None:
        """Return the name; None as long as there is no app that has one."""
        app = self._app() if self._app is not None else None
        if app is None:
            app = _compat.current_app()
            self.use(app)
        return app.main if app is not None else None
