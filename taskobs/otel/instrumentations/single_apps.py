"""Apps that ``instrument_app()`` is given."""

from __future__ import annotations

from typing import Any, Final

from taskobs.errors import MissingExtraError
from taskobs.internal.instrumentors import installed
from taskobs.otel.instrumentations.loading import load
from taskobs.otel.instrumentations.web_apps import FRAMEWORKS, Apps


class SingleApps:
    """Instruments the apps that it is given, of any framework, until ``stop``."""

    def __init__(self) -> None:
        self._apps: dict[str, Apps] = {}

    def instrument(self, app: Any) -> None:  # noqa: ANN401  # of any framework
        """Instrument an app, unless it is already.

        Raises:
            TypeError: it is no app of a framework whose instrumentor wants the app.
            MissingExtraError: the instrumentor is not installed.
        """
        name = framework_of(app)
        if name is None:
            raise TypeError(
                f"instrument_app() takes an app of Flask, FastAPI or Starlette, not {app!r:.200}; "
                "for Django, write taskobs.init(instrument=True)"
            )
        apps = self._apps.get(name) or self._apps_of(name)
        if apps is not None:
            apps.instrument(app)

    def _apps_of(self, name: str) -> Apps | None:
        instrumentation = installed().get(name)
        if instrumentation is None:
            raise MissingExtraError(f"instrument_app() with {FRAMEWORKS[name].kind}", name)
        instrumentor = load(instrumentation)
        if instrumentor is None:
            return None
        apps = self._apps[name] = Apps(name, instrumentor)
        apps.start()
        return apps

    def stop(self) -> None:
        """Undo it for all apps."""
        while self._apps:
            _, apps = self._apps.popitem()
            apps.stop()


single_apps: Final = SingleApps()
"""Those of this process."""


def framework_of(app: object) -> str | None:
    """Return the name of the framework of an app, which may be of a subclass."""
    for kind in type(app).__mro__:
        for name, framework in FRAMEWORKS.items():
            if kind.__name__ == framework.kind and kind.__module__.partition(".")[0] == name:
                return name
    return None
