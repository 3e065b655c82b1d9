"""Where `taskobs.init()` may stand."""

from __future__ import annotations

import os

import taskobs

POSITIONS = (
    "before all else",
    "after Celery()",
    "between Sentry and OpenTelemetry",
    "at the end of the factory",
    "after the factory",
)


def here(position: str) -> None:
    """Set telemetry up, if `APP_INIT_AT` names this position."""
    if os.environ.get("APP_INIT_AT") == position:
        taskobs.init()
