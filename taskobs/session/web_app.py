"""``instrument_app()``: spans of the requests to one app."""

from __future__ import annotations

from typing import TypeVar

from taskobs.session.session import is_disabled

AppT = TypeVar("AppT")


def instrument_app(app: AppT) -> AppT:
    """Make a span of each request to an app of Flask, FastAPI or Starlette; return the app.

    It is not needed with ``init(instrument=True)``, which does it for all apps. The app must not
    have served a request yet. Call it before ``init()`` or after; an app that is instrumented
    already stays as it is, and with ``enabled`` off nothing happens.

    Raises:
        TypeError: it is an app of another framework; Django needs ``init(instrument=True)``.
        MissingExtraError: the framework's instrumentor is not installed.
    """
    if not is_disabled():
        # Imported here: the SDK's API, and the framework's instrumentor, which few processes need.
        from taskobs.otel.instrumentations.single_apps import single_apps

        single_apps.instrument(app)
    return app
