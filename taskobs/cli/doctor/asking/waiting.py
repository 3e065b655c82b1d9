"""Waits for a server for a bounded time, whatever its library does meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeVar

from taskobs.internal.timeouts import run_with_timeout
from taskobs.relay.export.responses import NO_RESPONSE, ExportResult, ExportStatus

T = TypeVar("T")
TIME: Final = 8.0
"""Seconds that a server may take to respond."""
LATE: Final = f"no response within {TIME:.0f} s"
TIMED_OUT: Final = ExportResult(ExportStatus.RETRY, NO_RESPONSE, f"timed out after {TIME:.0f} s")


def within_time(ask: Callable[[], T], otherwise: T, timeout: float = TIME) -> T:
    """Return what ``ask`` returns, or ``otherwise`` if that takes longer; it must not raise."""
    found: list[T] = []
    run_with_timeout(timeout, lambda: found.append(ask()))
    return found[0] if found else otherwise
