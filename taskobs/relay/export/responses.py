"""What a backend's response means for the telemetry that was sent to it.

https://opentelemetry.io/docs/specs/otlp/#failures and, in addition, 408, as OpenTelemetry's own
exporters have it.
"""

from __future__ import annotations

import math
import random
import time
from datetime import timezone
from email.utils import parsedate_to_datetime
from enum import Enum
from typing import Final, NamedTuple

from taskobs.internal.causes import describe, innermost

RETRIED: Final = frozenset({408, 429, 502, 503, 504})
TOO_LARGE: Final = 413
NO_RESPONSE: Final = "no response"
_FIRST: Final = 1.0
_LONGEST: Final = 30.0
_JITTER: Final = 0.25
_LONGEST_RETRY_AFTER: Final = 600.0
"""Seconds: upper bound for Retry-After."""
_OK: Final = 200
_REDIRECTED: Final = 300


class ExportStatus(Enum):
    """What to do with a batch after an attempt to send it."""

    SUCCESS = "success"
    RETRY = "retry"
    """Send it again later, and nothing else until then: the backend takes nothing now."""
    FAILED = "failed"
    """Send it again a few times: the backend failed on it, but may take others."""
    SPLIT = "split"
    """Send it again in halves: something in it can't be sent."""
    TOO_LARGE = "too large"
    """Send it again in halves, and no batch of this size any more."""
    DROP = "drop"


class ExportResult(NamedTuple):
    """How an attempt went."""

    status: ExportStatus
    reason: str = ""
    """A few words, the same for all of a kind: it becomes a label."""
    detail: str = ""
    """What else there is to say; for the log."""
    wait: float | None = None
    """Seconds that the backend asked for."""
    rejected: int = 0
    """How many items of an accepted batch the backend has dropped."""

    @property
    def text(self) -> str:
        """Reason and detail, for the log."""
        return f"{self.reason} ({self.detail})" if self.detail else self.reason


def of_status(status: int, retry_after: str | None, detail: str = "") -> ExportResult:
    """Judge the status of an HTTP response."""
    reason = f"HTTP {status}"
    if _OK <= status < _REDIRECTED:
        return ExportResult(ExportStatus.SUCCESS)
    if status in RETRIED:
        return ExportResult(ExportStatus.RETRY, reason, detail, seconds(retry_after))
    if status == TOO_LARGE:
        return ExportResult(ExportStatus.TOO_LARGE, reason, detail)
    return ExportResult(ExportStatus.DROP, reason, detail)


def of_error(error: BaseException, hint: str = "") -> ExportResult:
    """Judge a request without a response; the error's innermost cause says why."""
    detail = describe(innermost(error))
    return ExportResult(ExportStatus.RETRY, NO_RESPONSE, f"{detail}: {hint}" if hint else detail)


def seconds(retry_after: str | None) -> float | None:
    """Read a ``Retry-After``: seconds, or a date; None for what is neither.

    A date in the past is none either: this machine's clock or the server's is wrong.
    """
    if retry_after is None:
        return None
    try:
        wait = float(retry_after)
    except ValueError:
        try:
            until = parsedate_to_datetime(retry_after)
        except (TypeError, ValueError):
            return None
        if until.tzinfo is None:
            until = until.replace(tzinfo=timezone.utc)
        wait = until.timestamp() - time.time()
        if wait <= 0:
            return None
    return min(max(wait, 0.0), _LONGEST_RETRY_AFTER) if math.isfinite(wait) else None


def backoff(attempt: int) -> float:
    """Return how long to wait after the failure number ``attempt`` (from 0), in seconds."""
    # Bounded before the power is taken: 2.0 ** 1024 raises OverflowError.
    wait = min(_LONGEST, _FIRST * 2.0 ** min(attempt, 10))
    return wait * random.uniform(1 - _JITTER, 1 + _JITTER)  # noqa: S311  # no secret
