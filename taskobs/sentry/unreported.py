"""Gives Sentry what happened before there was a client, as its own integrations would have."""

from __future__ import annotations

import logging
from collections.abc import Iterable

import sentry_sdk
from sentry_sdk.integrations.logging import BreadcrumbHandler
from sentry_sdk.utils import event_from_exception


def capture(error: BaseException, mechanism: str) -> None:
    """Capture an exception that nobody has caught, if Sentry is set up.

    ``mechanism`` is what the integration that would have captured it writes into the event.
    """
    client = sentry_sdk.get_client()
    if client.is_active():
        event, hint = event_from_exception(
            error,
            client_options=client.options,
            mechanism={"type": mechanism, "handled": False},
        )
        sentry_sdk.capture_event(event, hint=hint)


def replay(records: Iterable[logging.LogRecord]) -> None:
    """Make breadcrumbs of log records, if Sentry is set up."""
    if sentry_sdk.get_client().is_active():
        handler = BreadcrumbHandler()
        for record in records:
            handler.handle(record)
