"""Sentry's rate limits: for how long a server wants no more of one kind of data.

https://develop.sentry.dev/sdk/foundations/transport/rate-limiting/
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from threading import Lock
from typing import Final

from taskobs.relay.export.responses import ExportResult, ExportStatus, seconds

LIMITED: Final = "rate limited by Sentry"
_LONGEST: Final = 60.0
"""Seconds of a limit that are waited for. A longer one is a quota that is used up; what exceeds
it is dropped, as Sentry asks."""
_TOO_MANY: Final = 429
_ALL: Final = ""
_ERROR: Final = "error"
_CATEGORIES: Final = {
    "event": _ERROR,
    "check_in": "monitor",
    "sessions": "session",
    "log": "log_item",
    "client_report": "internal",
}
"""Sentry's categories, where they are not called as the type of the item."""


class RateLimits:
    """The limits of one server, as its responses announce them. Thread-safe."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._until: dict[str, float] = {}
        """By category, on the monotonic clock."""

    def note(self, status: int, headers: Mapping[str, str]) -> None:
        """Note what a response says."""
        announced = headers.get("X-Sentry-Rate-Limits")
        limits: dict[str, float] = {}
        if announced:
            limits = _parse(announced)
        elif status == _TOO_MANY:
            wait = seconds(headers.get("Retry-After"))
            limits = {_ALL: time.monotonic() + (_LONGEST if wait is None else wait)}
        with self._lock:
            self._until.update(limits)

    def check(self, envelope: bytes) -> ExportResult | None:
        """Return what to do with an envelope that must not be sent now; None if it may be.

        Errors wait for a short limit. Anything else is dropped, unless the limit is for all: it
        would keep the errors behind it waiting.
        """
        now, category = time.monotonic(), _category(envelope)
        with self._lock:
            of_all, of_it = (self._until.get(one, 0.0) - now for one in (_ALL, category))
        wait = max(of_all, of_it)
        if wait <= 0:
            return None
        if wait > _LONGEST or (of_all <= 0 and category != _ERROR):
            return ExportResult(ExportStatus.DROP, LIMITED, f"for {wait:.0f} s more")
        return ExportResult(ExportStatus.RETRY, LIMITED, wait=wait)


def _parse(header: str) -> dict[str, float]:
    """Read ``60:error;transaction:key, 2700:default:organization``."""
    now, limits = time.monotonic(), dict[str, float]()
    for limit in header.split(","):
        after, _, rest = limit.strip().partition(":")
        wait = seconds(after)
        if wait is not None:
            categories = rest.partition(":")[0].split(";")
            limits.update(dict.fromkeys((one.strip() for one in categories), now + wait))
    return limits


def _category(envelope: bytes) -> str:
    """Return what Sentry counts an envelope as: its first item."""
    try:
        kind = str(json.loads(envelope.split(b"\n", 2)[1])["type"])
    except (ValueError, LookupError, TypeError, RecursionError):
        return "default"
    return _CATEGORIES.get(kind, kind)
