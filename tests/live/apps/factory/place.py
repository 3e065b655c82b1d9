"""Where `taskobs.init()` may stand."""

from __future__ import annotations

import os

import taskobs

PLACES = (
    "before all else",
    "after Celery()",
    "between Sentry and OpenTelemetry",
    "at the end of the factory",
    "after the factory",
)


def here(place: str) -> None:
    """Set telemetry up, if this is the place to."""
    if os.environ.get("APP_INIT_AT") == place:
        taskobs.init()
