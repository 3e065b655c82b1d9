"""How a store hands items to the threads that send them.

A *taker* is a thread that waits in ``take``. There may be one for each kind at a time.
"""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from threading import Condition, Lock
from typing import Final

from taskobs.relay.storage.items import ITEM_KINDS, Item, ItemKind, Stored

_MAINTENANCE_INTERVAL: Final = 30.0


class Takers(ABC):
    """The part of a store that sender threads use. Thread-safe.

    Methods with an underscore are called with the lock held.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._ready = {kind: Condition(self._lock) for kind in ITEM_KINDS}
        self._wanted: dict[ItemKind, tuple[int, int]] = {}
        """The items and bytes that a taker waits for: with fewer it isn't woken."""
        self._flush_up_to: dict[ItemKind, int] = dict.fromkeys(ITEM_KINDS, 0)
        """The newest id that is to be taken without a delay; 0 if there is none."""
        self._flushed = Condition(self._lock)
        self._flush_count = 0
        self._held: dict[bytes, int] = {}
        """Destinations on hold. The value is an id: nothing older of that destination waits."""
        self._changes = 0
        """Counts what may make an item available to a taker that found all of them on hold."""
        self._signals: dict[ItemKind, int] = dict.fromkeys(ITEM_KINDS, 0)
        self._maintain_at = 0.0
        self._closed = False

    def take(  # noqa: PLR0913  # the last two are for who has something else to do meanwhile
        self,
        kind: ItemKind,
        max_items: int,
        max_bytes: int,
        max_delay: float,
        *,
        signal: int | None = None,
        timeout: float = math.inf,
    ) -> list[Stored]:
        """Wait for an item, then at most ``max_delay`` seconds more for a full batch.

        A taken item is not given again, unless it is put back; it stays in the store until
        ``done``. At least one item is given, however large. Returns nothing once the store is
        closed, after ``timeout`` seconds, and when ``signals(kind)`` is no longer ``signal``.
        """
        with self._lock:
            end = time.monotonic() + timeout
            while not self._closed:
                self._maintain_when_due()
                # Read before the waits, which release the lock: a change in between is seen.
                changes, left = self._changes, max(0.0, end - time.monotonic())
                wait = min(_MAINTENANCE_INTERVAL, left)
                if self._wait_for(kind, 1, 0, wait, signal):
                    self._wait_for(kind, max_items, max_bytes, max_delay, signal)
                    batch = [] if self._closed else self._take(kind, max_items, max_bytes)
                    if batch or not self._held:
                        return batch
                    self._wait_for_change(kind, changes, wait, signal)
                if left <= 0 or self._is_signalled(kind, signal):
                    break
            return []

    def put_back(self, stored: Sequence[Stored]) -> None:
        """Return items that could not be sent: they are the oldest ones again."""
        with self._lock:
            self._put_back(stored)
            self._changed()

    def hold(self, destination: bytes) -> None:
        """Stop giving envelopes with this ``resource_blob`` until ``release``."""
        with self._lock:
            self._held.setdefault(destination, self._hold_from(destination))

    def release(self, destination: bytes) -> None:
        """Give the envelopes of a destination again."""
        with self._lock:
            first = self._held.pop(destination, None)
            if first is not None:
                self._resume_from(first)
                self._changed()

    def signals(self, kind: ItemKind) -> int:
        """Return the number of flushes and interrupts, as ``signal`` for ``take``.

        Read it before deciding to wait there, so that none in between is missed.
        """
        return self._signals[kind]

    def interrupt(self, kind: ItemKind) -> None:
        """Make a ``take`` that was given a ``signal`` return what there is."""
        with self._lock:
            self._signals[kind] += 1
            self._ready[kind].notify_all()

    def flush(self) -> int:
        """Have all that waits now taken without a delay; return a mark for ``is_flushed``."""
        with self._lock:
            last = self._last()
            self._flush_up_to = dict.fromkeys(ITEM_KINDS, last)
            self._flush_count += 1
            self._flushed.notify_all()
            for kind in ITEM_KINDS:
                self._signals[kind] += 1
                self._ready[kind].notify_all()
            return last

    @property
    def flushes(self) -> int:
        """How often a flush was requested."""
        return self._flush_count

    def is_flushed(self, mark: int) -> bool:
        """Return whether all that waited when ``mark`` was made is sent or dropped."""
        # Ids only grow, so it is enough to compare the oldest that is left.
        with self._lock:
            first = [self._first(kind, taken=True) for kind in ITEM_KINDS]
        return not any(one is not None and one <= mark for one in first)

    def pause(self, seconds: float, *, ignore_flush: bool) -> bool:
        """Sleep; unless ``ignore_flush``, return True early if a flush was requested."""
        with self._lock:
            flushes = self._flush_count
            self._flushed.wait_for(
                lambda: self._closed or (not ignore_flush and self._flush_count != flushes), seconds
            )
            return self._flush_count != flushes and not ignore_flush

    @property
    def closed(self) -> bool:
        """Whether it was closed."""
        return self._closed

    def close(self) -> None:
        """Wake all takers and give nothing any more; what is on disk stays."""
        with self._lock:
            self._closed = True
            for waiting in (self._flushed, *self._ready.values()):
                waiting.notify_all()

    # For stores to call.

    def _arrived(self, items: Sequence[Item]) -> None:
        """Wake takers for new items."""
        if self._held and any(item.kind == "envelope" for item in items):
            self._changed()
        self._wake()

    def _changed(self) -> None:
        """Wake a taker that found all envelopes on hold."""
        self._changes += 1
        self._ready["envelope"].notify_all()

    def _wake(self) -> None:
        """Wake takers that have what they wait for."""
        for kind in self._wanted:
            if self._is_enough(kind):
                self._ready[kind].notify_all()

    # For stores to implement.

    def _maintain(self) -> None:  # noqa: B027  # the memory needs none
        """Do what is due every half minute."""

    def _hold_from(self, destination: bytes) -> int:
        """Return an id that is older than all that waits for a destination."""
        del destination
        return 0

    def _resume_from(self, first: int) -> None:  # noqa: B027  # the memory needs none
        """Take what is newer than ``first`` into account again."""

    @abstractmethod
    def _put_back(self, stored: Sequence[Stored]) -> None: ...

    @abstractmethod
    def _take(self, kind: ItemKind, max_items: int, max_bytes: int) -> list[Stored]: ...

    @abstractmethod
    def _untaken(self, kind: ItemKind) -> tuple[int, int]:
        """Return how many items and bytes wait, with those on hold."""

    @abstractmethod
    def _first(self, kind: ItemKind, *, taken: bool) -> int | None:
        """Return the oldest id that waits; with ``taken``, also of those that are being sent."""

    @abstractmethod
    def _last(self) -> int: ...

    # Waiting.

    def _maintain_when_due(self) -> None:
        if time.monotonic() >= self._maintain_at:
            self._maintain_at = time.monotonic() + _MAINTENANCE_INTERVAL
            self._maintain()

    def _wait_for(
        self, kind: ItemKind, items: int, size: int, timeout: float, signal: int | None
    ) -> bool:
        """Wait until so much waits, or a flush was requested for what waits."""
        # Noted for ``_wake``, which wakes no taker for less.
        self._wanted[kind] = items, size
        self._ready[kind].wait_for(
            lambda: self._closed or self._is_enough(kind) or self._is_signalled(kind, signal),
            timeout,
        )
        found = not self._closed and self._is_enough(kind)
        del self._wanted[kind]
        return found

    def _wait_for_change(
        self, kind: ItemKind, changes: int, timeout: float, signal: int | None
    ) -> None:
        self._ready[kind].wait_for(
            lambda: self._closed or self._changes != changes or self._is_signalled(kind, signal),
            timeout,
        )

    def _is_signalled(self, kind: ItemKind, signal: int | None) -> bool:
        return signal is not None and self._signals[kind] != signal

    def _is_enough(self, kind: ItemKind) -> bool:
        items, size = self._wanted[kind]
        count, waiting = self._untaken(kind)
        return bool(count) and (count >= items or 0 < size <= waiting or self._is_flushing(kind))

    def _is_flushing(self, kind: ItemKind) -> bool:
        """Tell whether something waits that was there at the last flush."""
        if self._flush_up_to[kind]:
            first = self._first(kind, taken=False)
            if first is not None and first <= self._flush_up_to[kind]:
                return True
            self._flush_up_to[kind] = 0  # what comes is newer
        return False
