"""What a session finds in its process: a provider, a Sentry client, an app."""

from __future__ import annotations

import sys

from opentelemetry import trace

from taskobs.celery import _compat


def has_provider() -> bool:
    """Tell whether somebody has set a tracer provider."""
    return not isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider)


def sentry_is_active() -> bool:
    """Tell whether somebody has initialised Sentry; it is not imported to find out."""
    sdk = sys.modules.get("sentry_sdk")
    return sdk is not None and bool(sdk.get_client().is_active())


def app_name() -> str:
    """Return the name of the current app; none is made for it."""
    app = _compat.current_app()
    return (app.main if app is not None else None) or "celery"
