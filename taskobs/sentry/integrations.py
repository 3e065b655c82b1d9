"""Sentry's integrations with libraries, each enabled when the process imports its library.

Sentry's client imports each library that it supports and that is installed. With Django, Flask and
FastAPI in one environment, that costs 300 ms and 25 MB in a worker that uses none of them.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from importlib import import_module
from typing import Any, Final

import sentry_sdk
from sentry_sdk import client as sentry_client
from sentry_sdk.client import BaseClient
from sentry_sdk.integrations import DidNotEnable, setup_integrations
from sentry_sdk.utils import get_sdk_name

from taskobs.internal.guard import Guard
from taskobs.internal.hidden_modules import hidden_modules
from taskobs.internal.import_hooks import when_imported
from taskobs.internal.wrapping import Patches
from taskobs.sentry import _compat

_log: Final = logging.getLogger("taskobs")
_EXCLUDED: Final = "celery"
"""Not enabled: taskobs reports tasks, and this one would leave wrappers in Celery."""
# fmt: off
_CALLED_AS_THEIRS: Final = (
    "aiohttp", "anthropic", "ariadne", "arq", "asyncpg", "bottle", "chalice",
    "clickhouse_driver", "cohere", "django", "falcon", "fastapi", "flask", "gql", "graphene",
    "httpx", "httpx2", "huey", "huggingface_hub", "litestar", "loguru", "mcp", "openai",
    "pydantic_ai", "pymongo", "pyramid", "quart", "redis", "rq", "sanic", "sqlalchemy",
    "starlette", "starlite", "strawberry", "tornado",
)
# fmt: on
_LIBRARIES: Final = {name: name for name in _CALLED_AS_THEIRS} | {
    "boto3": "botocore",
    "google_genai": "google.genai",
    "openai_agents": "agents",
}
"""The module whose import enables each integration. Those that aren't here are enabled at once:
new ones, and those whose library has several packages that import each other."""

_DJANGO: Final = "django"
_SIGN_OF_USE: Final = {_DJANGO: "django.conf"}
"""Celery itself imports a part of Django where it is installed. A process that uses Django calls
``django.setup()``; only then are its modules complete."""
_DJANGO_REQUESTS: Final = ("django.conf", "django.http")


def available() -> bool:
    """Tell whether this release of Sentry lists its integrations; else Sentry enables them."""
    return _compat.integrations() is not None


class Integrations:
    """The integrations of one client; from ``enable`` on, until ``stop``.

    ``came`` is called after a library was imported and its integration was enabled, on the thread
    that imports it. Errors are logged and don't reach the import.
    """

    def __init__(self, client: BaseClient, came: Callable[[], object]) -> None:
        self._client = client
        self._came = came
        self._guard = Guard()
        self._waiting: dict[str, str] = {}
        self._wrappers = Patches()
        self._undo = ExitStack()

    def enable(self) -> None:
        """Enable those whose library is imported; enable each other one when its library is."""
        for path in _compat.integrations() or ():
            name = path.split(".")[2]
            library = _LIBRARIES.get(name)
            if library is None or _SIGN_OF_USE.get(library, library) in sys.modules:
                if name != _EXCLUDED:
                    self._enable(path)
            else:
                self._waiting[library] = path
                self._undo.callback(
                    when_imported(library, partial(self._library_imported, library))
                )

    def stop(self) -> None:
        """Stop enabling more."""
        self._undo.close()
        self._waiting.clear()
        self._wrappers.remove()

    def _library_imported(self, library: str) -> None:
        if library in self._waiting and self._is_current():
            if library == _DJANGO:
                self._wrappers.wrap(sys.modules[library], "setup", self._django_is_set_up)
            else:
                self._in_use(library)

    def _is_current(self) -> bool:
        return sentry_sdk.get_global_scope().client is self._client

    def _django_is_set_up(
        self,
        setup: Callable[..., object],
        _: object,
        args: tuple[object, ...],
        kwargs: dict[str, object],
    ) -> object:
        self._in_use(_DJANGO)
        return setup(*args, **kwargs)

    def _in_use(self, library: str) -> None:
        path = self._waiting.pop(library, None)
        if path is not None:
            if library == _DJANGO:
                _compat.reload_wsgi_helpers()
            self._enable(path)
            self._came()

    def _enable(self, path: str) -> None:
        module, name = path.rsplit(".", 1)
        if module in sys.modules and not hasattr(sys.modules[module], name):
            return  # being imported now, by Sentry for another client: that import enables it
        # Sentry's WSGI helpers import Django's requests where Django is installed, and with them
        # Django's settings. These raise at `isinstance()` unless the app configures them, and
        # gevent calls that on all objects when it patches.
        hidden = _DJANGO_REQUESTS if _DJANGO in self._waiting else ()
        with self._guard, hidden_modules(*hidden):
            try:
                made = getattr(import_module(module), name)()
                found = setup_integrations(
                    [made], with_defaults=False, options=self._client.options
                )
            except (
                DidNotEnable,
                SyntaxError,
            ) as why:  # caught as Sentry does: the library is too old, or incomplete
                _log.debug("taskobs: Sentry's %s not enabled: %s", name, why)
                return
            self._add(found)

    def _add(self, found: dict[str, Any]) -> None:
        """Replace the client's dict instead of changing it: another thread may be reading it."""
        enabled = {**self._client.integrations, **found}
        for winner, losers in _compat.deactivated().items():
            if winner in enabled:
                enabled = {name: one for name, one in enabled.items() if name not in losers}
        self._client.integrations = enabled
        sentry_client.SDK_INFO["name"] = get_sdk_name(list(enabled))
