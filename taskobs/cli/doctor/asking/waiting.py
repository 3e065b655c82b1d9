"""Waits for a server for a bounded time, whatever its library does meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeVar

from taskobs.internal.timeouts import run_with_timeout

T = TypeVar("T")
TIME: Final = 8.0
"""Seconds that a server may take to respond."""


def within_time(ask: Callable[[], T], otherwise: T, timeout: float = TIME) -> T:
    """Return what ``ask`` returns, or ``otherwise`` if that takes longer; it must not raise."""
    found: list[T] = []
    run_with_timeout(timeout, lambda: found.append(ask()))
    return found[0] if found else otherwise
