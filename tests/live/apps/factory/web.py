"""The factory."""

from __future__ import annotations

from flask import Flask

from tests.live.apps.factory import ext_celery, ext_otel, ext_sentry
from tests.live.apps.factory.place import here


def create_app() -> Flask:
    """Make the app."""
    web = Flask(__name__)
    ext_sentry.init_app()
    here("between Sentry and OpenTelemetry")
    ext_otel.init_app()

    @web.get("/order")
    def order() -> str:  # pyright: ignore[reportUnusedFunction]  # Flask calls it
        ext_celery.order()
        return "done"

    here("at the end of the factory")
    return web
