"""How large a batch a backend accepts, learnt from what it has refused as too large."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import Final

from taskobs.relay.export.responses import ExportResult
from taskobs.relay.storage.items import Stored, weight

REMEMBERED: Final = 600.0
"""Seconds after which the full size is tried again: somebody may have raised the limit."""
_REFUSALS: Final = 3


class BatchSize:
    """What one backend accepts, in bytes as the store counts them. Not thread-safe.

    These are not the bytes of a request. But all batches are encoded and compressed in one way, so
    one with fewer of them makes a smaller request, with few exceptions.
    """

    def __init__(self, largest: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._largest = largest
        self._clock = clock
        self._limit = largest
        self._refused: list[int] = []
        """Sizes of the smallest items that were refused in a request of their own."""
        self._forget_at = math.inf
        self.refusal: ExportResult | None = None
        """What the backend said of the last item that it refused alone."""

    @property
    def limit(self) -> int:
        """How many bytes to send at once."""
        if self._clock() >= self._forget_at:
            self._limit, self._refused, self.refusal = self._largest, [], None
            self._forget_at = math.inf
        return self._limit

    def refused(self, batch: Sequence[Stored], result: ExportResult) -> None:
        """Note a batch that was too large."""
        size = _bytes(batch)
        if len(batch) > 1:
            self._limit = min(self._limit, max(1, size // 2))
        else:
            self._refused = sorted([*self._refused, size])[:_REFUSALS]
            self.refusal = result
        self._forget_at = self._clock() + REMEMBERED

    def accepted(self, batch: Sequence[Stored]) -> None:
        """Note a batch that was not too large."""
        if self._refused:
            size = _bytes(batch)
            self._refused = [refused for refused in self._refused if refused > size]

    def is_hopeless(self, one: Stored) -> bool:
        """Tell whether three items that were no larger were refused alone, and none accepted.

        One would not do: what was refused may be the one that can't be compressed.
        """
        return len(self._refused) == _REFUSALS and weight(one.item) >= self._refused[-1]


def _bytes(batch: Sequence[Stored]) -> int:
    return sum(weight(one.item) for one in batch)
