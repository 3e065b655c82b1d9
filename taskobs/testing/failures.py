"""What fails a test: errors whose message lists what was recorded."""

from __future__ import annotations


class NotRecordedError(AssertionError):
    """Nothing that was recorded is what the test asked for."""


class AmbiguousError(AssertionError):
    """Several of what was recorded are what the test asked for, and it wants one."""


class NotSettledError(AssertionError):
    """Tasks that the test has published, or that have begun, did not end in time."""


class UnexpectedTelemetryError(AssertionError):
    """There are Sentry events or lost runs that the test did not ask for."""
