"""What a backend answers, and what is to be done about it.

https://opentelemetry.io/docs/specs/otlp/#failures and, beside it, 408: the stock exporters'.
"""

from __future__ import annotations

import math
import random
import time
from datetime import timezone
from email.utils import parsedate_to_datetime
from enum import Enum
from typing import Final, NamedTuple

RETRIED: Final = frozenset({408, 429, 502, 503, 504})
TOO_LARGE: Final = 413
_FIRST: Final = 1.0
_LONGEST: Final = 30.0
_JITTER: Final = 0.25
_PATIENCE: Final = 600.0
"""Seconds: whoever asks to be left alone for longer is asked again after these."""
_OK: Final = 200
_REDIRECTED: Final = 300


class ExportStatus(Enum):
    """What becomes of what was sent."""

    SUCCESS = "out"
    RETRY = "later"
    """To be tried again."""
    SPLIT = "split"
    """To be tried again in smaller pieces."""
    DROP = "never"


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
    """How many of what was accepted the backend has thrown away."""
    tries: int | None = None
    """So many such answers, and it is given up; None: as long as the store keeps it."""


def of_status(status: int, retry_after: str | None, detail: str = "") -> ExportResult:
    """Judge a status of HTTP."""
    reason = f"HTTP {status}"
    if _OK <= status < _REDIRECTED:
        return ExportResult(ExportStatus.SUCCESS)
    if status in RETRIED:
        return ExportResult(ExportStatus.RETRY, reason, detail, seconds(retry_after))
    if status == TOO_LARGE:
        return ExportResult(ExportStatus.SPLIT, reason, detail)
    return ExportResult(ExportStatus.DROP, reason, detail)


def of_error(error: BaseException) -> ExportResult:
    """Judge a request that had no answer; the error's innermost cause says why."""
    inner: BaseException = error
    for _ in range(10):
        below = getattr(inner, "reason", None) or inner.__cause__ or inner.__context__
        if not isinstance(below, BaseException):
            break
        inner = below
    detail = type(inner).__name__
    if isinstance(inner, OSError) and inner.strerror:
        detail = f"{detail}: {inner.strerror}"  # the rest of its text may hold a URL with a secret
    return ExportResult(ExportStatus.RETRY, "no answer", detail)


def seconds(retry_after: str | None) -> float | None:
    """Read a ``Retry-After``: seconds, or a date; None for what is neither."""
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
    return min(max(wait, 0.0), _PATIENCE) if math.isfinite(wait) else None


def backoff(attempt: int) -> float:
    """Return how long to wait after the failure number ``attempt`` (from 0), in seconds."""
    wait = min(_LONGEST, _FIRST * 2.0 ** min(attempt, 10))
    return wait * random.uniform(1 - _JITTER, 1 + _JITTER)  # noqa: S311  # no secret
