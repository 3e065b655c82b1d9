"""Waits for the first use of what a session sets up, in a process that may never have any.

The SDK, Sentry and the modules around them take longer to import than a command such as ``celery
inspect`` takes to run. So a process waits, and so do its imports, until

* it publishes, or runs a task, or Celery's signals make it a worker or beat;
* it asks OpenTelemetry for the provider, or for a tracer;
* it imports Sentry, a web framework, or a library that is to be instrumented;
* it logs a record that Sentry would keep, or ends by an exception.

Where the SDK, Sentry or a web framework is imported before ``init()``, nothing waits.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final, Protocol

from celery import signals

from taskobs import semconv
from taskobs.celery.command_line import at_command_end, in_command, in_worker_command
from taskobs.celery.patches.send import SendPatch
from taskobs.celery.places import release_places, reserve_places
from taskobs.config.settings import Settings
from taskobs.internal.guard import Guard
from taskobs.internal.import_hooks import ImportWatch, when_imported
from taskobs.internal.wrapping import Patches
from taskobs.session.environment import AppName
from taskobs.session.first_error import FirstError

if TYPE_CHECKING:
    from taskobs.celery._types import App
    from taskobs.session.command.publish import CommandPublish

_API: Final = "opentelemetry.trace"
_SENTRY: Final = "sentry_sdk"
_BEFORE_EXIT: Final = "concurrent.futures.thread"
_RUN_UID: Final = "taskobs.first_run"
_DJANGO: Final = "django"
_DJANGO_IN_USE: Final = "django.conf"
_WEB: Final = (
    *("aiohttp", "bottle", "falcon", "fastapi", "flask", "litestar", "pyramid", "quart", "sanic"),
    *("starlette", "starlite", "tornado"),
)
"""Frameworks whose errors Sentry reports, beside Django."""


class Listener(Protocol):
    """Is told of the first use."""

    def begin(self, *, errors: bool = False, wait: bool = True) -> None:
        """Set up what is used, and report errors too if ``errors``.

        Does nothing if ``wait`` is off and another thread does that now.
        """
        ...

    def command_ended(self) -> None:
        """Send what a command has published without the SDK; if that fails, set the SDK up."""
        ...


def needed_now(settings: Settings) -> bool:
    """Tell whether there is nothing to wait for, or something to check at once."""
    used = {_API, _SENTRY} if in_command() else {_API, _SENTRY, _DJANGO_IN_USE, *_WEB}
    if not used.isdisjoint(sys.modules):
        return True
    if settings.logs_endpoint is not None:
        return True
    return settings.otlp and settings.otlp_protocol == "grpc"  # is its exporter installed?


class FirstUse:
    """Calls a listener at the first use; from ``install`` to ``remove``.

    If ``settings`` have a DSN, errors outside of tasks are reported, too.
    """

    def __init__(self, listener: Listener, settings: Settings, app_name: AppName) -> None:
        self._listener = listener
        self._settings = settings
        self._app_name = app_name
        self._guard = Guard(strict=settings.strict)
        self._alone: CommandPublish | None = None
        self._send = SendPatch(self._publishing, self._canvas, lambda: None)
        self._api = Patches()
        self._django = Patches()
        self._complete: set[str] = set()
        """The frameworks that were imported since ``install``."""
        self._first_error = FirstError(lambda: listener.begin(errors=True))
        self._reserved = ExitStack()
        self._traces = ExitStack()
        self._errors = ExitStack()

    def install(self) -> None:
        """Wait from now on."""
        # Both SDKs import it, and it can't be imported once exit hooks run, of which one may be
        # the first use. Its own import takes a millisecond.
        import_module(_BEFORE_EXIT)
        if self._settings.traces or self._settings.errors:
            self._reserved.callback(release_places)
            reserve_places()
        self._traces.callback(self._api.remove)
        self._traces.callback(when_imported(_API, self._api_is_here))
        self._traces.callback(when_imported(semconv.STOCK_SCOPE, self._stock_is_here))
        self._traces.callback(self._send.remove)
        self._send.install()
        signals.task_prerun.connect(self._runs, weak=False, dispatch_uid=_RUN_UID)
        self._errors.callback(signals.task_prerun.disconnect, dispatch_uid=_RUN_UID)
        self._errors.callback(when_imported(_SENTRY, self._sentry_is_here))
        if not in_command():  # which serves no requests
            self._wait_for_web()
        if self._settings.errors:
            self._errors.callback(self._first_error.remove)
            self._first_error.install()
        # A worker's tasks use what the app's modules make of libraries, such as engines.
        if self._settings.traces and (in_worker_command() or not in_command()):
            self._wait_for_libraries()

    def _wait_for_libraries(self) -> None:
        if not self._settings.instrument:
            return
        from taskobs.internal.instrumentors import chosen  # reads what is installed

        instrumentations = chosen(self._settings.instrument)
        modules = [module for one in instrumentations for module in one.modules()]
        watch = ImportWatch(modules, partial(self._listener.begin, wait=False))
        self._traces.callback(watch.remove)
        watch.install()

    def _wait_for_web(self) -> None:
        for module in _WEB:
            self._errors.callback(when_imported(module, partial(self._web_is_here, module)))
        self._errors.callback(self._django.remove)
        self._errors.callback(when_imported(_DJANGO, self._django_is_here))

    def traces_begin(self) -> None:
        """Stop waiting for publishes, and for a use of OpenTelemetry."""
        self._traces.close()

    def errors_begin(self) -> None:
        """Stop waiting for runs, errors, and imports."""
        self._errors.close()

    def errors_begun(self) -> None:
        """Give Sentry what was logged meanwhile."""
        self._first_error.replay()

    def remove(self) -> None:
        """Stop waiting."""
        self.traces_begin()
        self.errors_begin()
        self._reserved.close()

    def _sentry_is_here(self) -> None:
        self._listener.begin(errors=True, wait=False)

    def _web_is_here(self, module: str) -> None:
        self._complete.add(module)
        # A framework that imports this one is not complete yet, and Sentry's integration would not
        # find in it what it needs. There will be another call for that one.
        if self._complete.issuperset(sys.modules.keys() & {*_WEB}):
            self._listener.begin(errors=True, wait=False)

    def _django_is_here(self) -> None:
        # Celery and others import a part of Django where it is installed; this is called for use.
        self._django.wrap(sys.modules[_DJANGO], "setup", self._set_up_django)

    def _set_up_django(
        self, setup: Callable[..., object], _: object, args: tuple[Any, ...], named: dict[str, Any]
    ) -> object:
        self._listener.begin(errors=True)
        return setup(*args, **named)

    def _runs(self, **_: object) -> None:
        self._listener.begin(errors=True)

    def _publishing(
        self, app: App, task: str, options: Mapping[str, Any]
    ) -> AbstractContextManager[object]:
        alone = self._of_command(app, task, options)
        if alone is not None:
            return alone
        self._listener.begin()
        from taskobs.otel.task_spans import shared_task_signals

        return shared_task_signals().publishing(app, task, options)

    def _of_command(
        self, app: App, task: str, options: Mapping[str, Any]
    ) -> AbstractContextManager[object] | None:
        """Return the block around the first publish of a command that may need no SDK."""
        if self._alone is not None or not in_command() or needed_now(self._settings):
            return None
        with self._guard:
            from taskobs.celery.adapter.publishes import publish_of
            from taskobs.session.command.publish import CommandPublish, is_possible

            if is_possible(self._settings, app, task, options):
                publish = publish_of(app, task, options, None)
                begin = self._listener.begin
                self._alone = CommandPublish(self._settings, self._app_name, begin, app, publish)
                at_command_end(self._listener.command_ended)
        return self._alone

    def send(self, timeout: float) -> bool:
        """Send what a command has published; tell whether that needs no full set-up."""
        return self._alone is None or self._alone.send(timeout)

    def repeat(self) -> None:
        """Make the span of a command's publish again, now that there is a full set-up."""
        if self._alone is not None:
            self._alone.repeat()

    def _canvas(self, kind: str, options: Mapping[str, Any]) -> AbstractContextManager[object]:
        self._listener.begin()
        from taskobs.otel.task_spans import shared_task_signals

        return shared_task_signals().canvas(kind, options)

    def _api_is_here(self) -> None:
        # Not used yet: the SDK, which imports this module too, may not be complete now.
        self._api.wrap(sys.modules[_API], "get_tracer_provider", self._provider)

    def _stock_is_here(self) -> None:
        self._listener.begin(wait=False)  # whose instrumentor is ours then

    def _provider(
        self, get: Callable[..., object], _: object, args: tuple[Any, ...], named: dict[str, Any]
    ) -> object:
        self._listener.begin()
        return get(*args, **named)
