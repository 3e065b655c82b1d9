"""The app's Sentry."""

from __future__ import annotations

import os

import sentry_sdk


def init_app() -> None:
    """Initialise it."""
    sentry_sdk.init(dsn=os.environ["APP_SENTRY_DSN"])
