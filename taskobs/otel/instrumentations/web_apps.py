"""Instruments the apps of web frameworks whose instrumentor wants the app."""

from __future__ import annotations

import sys
from collections.abc import Callable
from threading import Lock
from typing import Any, Final, NamedTuple, Protocol, cast
from weakref import WeakSet

from taskobs.internal import forksafe
from taskobs.internal.forksafe import ForkStep
from taskobs.internal.wrapping import Patches
from taskobs.otel._sdk_compat import is_instrumented_app
from taskobs.otel.instrumentations.loading import STAYS, Instrumentor, trying

_MARK: Final = "_taskobs_instrumented"
"""The attribute of an app that says that it was looked at."""


class WebFramework(NamedTuple):
    """Where its class of apps is, and the method that is called first when an app serves."""

    module: str
    kind: str
    method: str


FRAMEWORKS: Final = {
    "flask": WebFramework("flask", "Flask", "__call__"),
    "fastapi": WebFramework("fastapi", "FastAPI", "build_middleware_stack"),
    "starlette": WebFramework("starlette.applications", "Starlette", "build_middleware_stack"),
}


class AppInstrumentor(Instrumentor, Protocol):
    """An instrumentor that can instrument one app."""

    def instrument_app(self, app: Any) -> object:  # noqa: ANN401  # of any framework
        """Patch an app that has not served yet."""
        ...

    def uninstrument_app(self, app: Any) -> object:  # noqa: ANN401  # as above
        """Undo that."""
        ...


class Apps:
    """The apps of a framework that we have instrumented, from ``start`` to ``stop``."""

    def __init__(self, name: str, instrumentor: Instrumentor) -> None:
        self._name = name
        self._instrumentor = cast("AppInstrumentor", instrumentor)
        self._ours: WeakSet[Any] = WeakSet()
        self._lock = Lock()

    def start(self) -> None:
        """Be ready for forks."""
        forksafe.add(self, ForkStep.LOCKS)

    def instrument(self, app: Any) -> bool:  # noqa: ANN401  # of any framework
        """Instrument an app, once, unless its own code has; tell whether this call did.

        Another thread that serves the app's first request meanwhile waits.
        """
        with self._lock:
            attributes: dict[str, Any] = app.__dict__
            if _MARK in attributes:
                return False
            attributes[_MARK] = True
            return not is_instrumented_app(app) and self._instrument(app)

    def _instrument(self, app: Any) -> bool:  # noqa: ANN401  # as above
        attributes: dict[str, Any] = app.__dict__
        before = attributes.copy()
        with trying(self._name):
            self._instrumentor.instrument_app(app)
            self._ours.add(app)
            return True
        _restore(attributes, before)
        return False

    def stop(self) -> None:
        """Undo it for all apps."""
        forksafe.remove(self)
        for app in list(self._ours):
            app.__dict__.pop(_MARK, None)
            # That of FastAPI makes the app's middleware anew, which may fail.
            with trying(self._name, STAYS):
                if is_instrumented_app(app):
                    self._instrumentor.uninstrument_app(app)
        self._ours.clear()

    def after_fork(self) -> None:
        """In a forked child: another thread of the parent may have held the lock."""
        self._lock = Lock()


def _restore(attributes: dict[str, Any], before: dict[str, Any]) -> None:
    """Undo what an instrumentor did before it failed: that of Flask begins with the app's call.

    Flask refuses the rest once the app has served. Other threads use the app meanwhile, so that
    nothing is taken away that was there.
    """
    attributes.update(before)
    for name in attributes.keys() - before.keys():
        attributes.pop(name, None)


class WebInstrumentation:
    """Instruments each app of a framework when it first serves, from ``start`` to ``stop``.

    By then the app's own code has had its chance to do so, with its own options, and has put other
    middleware around the app. Whether the app was made before ``init()`` does not matter.
    """

    def __init__(self, name: str, instrumentor: Instrumentor) -> None:
        self._framework = FRAMEWORKS[name]
        self._instrumentor = instrumentor
        self._apps = Apps(name, instrumentor)
        self._patches = Patches()

    def start(self) -> None:
        """Wait for apps that serve."""
        kind = getattr(sys.modules[self._framework.module], self._framework.kind)
        self._apps.start()
        self._patches.wrap(kind, self._framework.method, self._serve)

    def stop(self) -> None:
        """Undo it for all apps."""
        self._patches.remove()
        self._apps.stop()

    def _serve(
        self,
        method: Callable[..., Any],
        app: Any,  # noqa: ANN401  # of any framework
        args: tuple[Any, ...],
        named: dict[str, Any],
    ) -> object:
        attributes: dict[str, Any] = app.__dict__
        if _MARK not in attributes and self._take(app):
            # An instrumentor may put a method of the object in the place of this one of its class.
            method = attributes.get(self._framework.method, method)
        return method(*args, **named)

    def _take(self, app: Any) -> bool:  # noqa: ANN401  # of any framework
        active = self._instrumentor.is_instrumented_by_opentelemetry  # by the app: for all its apps
        return not active and self._apps.instrument(app)
