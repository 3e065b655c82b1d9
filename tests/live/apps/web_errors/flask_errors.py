"""A Flask app that publishes a task that fails, and fails itself."""

from __future__ import annotations

from flask import Flask

from tests.live.apps.errors import fails_and_calls
from tests.live.apps.web_errors import TRACED, fail

web = Flask(__name__)
if TRACED:
    from opentelemetry.instrumentation.flask import FlaskInstrumentor

    FlaskInstrumentor().instrument_app(web)  # type: ignore[no-untyped-call]  # it has no types


@web.get("/boom")
def boom() -> str:
    """Fail."""
    fail()
    return "?"


@web.get("/buy")
def buy() -> str:
    """Publish, and fail."""
    fails_and_calls.delay()
    fail()
    return "?"
