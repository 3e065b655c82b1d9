"""The hooks of a session: see ``taskobs.observers.hooks.calls``."""

from __future__ import annotations

from contextlib import ExitStack

from taskobs.celery.adapter.outcomes import PASSING
from taskobs.config.hook_checks import name_of
from taskobs.config.settings import Settings
from taskobs.internal.guard import Guard
from taskobs.observers.base import Observer
from taskobs.observers.hooks.calls import PublishHooks, RunHooks
from taskobs.otel.task_spans import shared_task_signals


class Hooks:
    """Calls the hooks that the settings name, from ``install`` to ``remove``."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._undo = ExitStack()

    def install(self) -> None:
        """Call them for each publish and each run; without any, no observer is added."""
        settings = self._settings
        if settings.on_publish is not None:
            self._attach(PublishHooks(settings.on_publish, self._guard("on_publish")))
        if settings.on_run is not None or settings.on_run_end is not None:
            guards = self._guard("on_run"), self._guard("on_run_end")
            self._attach(RunHooks(settings.on_run, guards[0], settings.on_run_end, guards[1]))

    def remove(self) -> None:
        """Call them no more."""
        self._undo.close()

    def _attach(self, observer: Observer) -> None:
        self._undo.callback(shared_task_signals().detach, observer)
        shared_task_signals().attach(observer)

    def _guard(self, setting: str) -> Guard:
        hook = name_of(getattr(self._settings, setting))
        says = f"the hook {setting}={hook} failed, the task goes on"
        return Guard(strict=self._settings.strict, passing=PASSING, says=says, once=True)
