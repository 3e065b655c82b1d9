"""Web apps over the shop that fail, with or without OpenTelemetry's instrumentation of requests."""

from __future__ import annotations

import os

TRACED = bool(os.environ.get("APP_TRACED"))


class PageError(Exception):
    """What each page fails with."""


def fail() -> None:
    """Fail."""
    msg = "the page is broken"
    raise PageError(msg)
