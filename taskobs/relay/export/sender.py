"""What the senders of spans and of envelopes share: how they end, and what they count.

A sender takes items from the store in threads of its own, and sends them. Each item is counted
once: as exported, or as dropped with the reason.
"""

from __future__ import annotations

import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from threading import Event, Lock
from typing import ClassVar, Final

from taskobs.relay.counters import EXPORTED, RETRIED, Counters
from taskobs.relay.storage.base import TOO_OLD, Store
from taskobs.relay.storage.items import ItemKind, Stored

_log = logging.getLogger("taskobs.relay")
AT_THE_END: Final = "not sent when the relay ended"
MALFORMED: Final = "malformed"
UNSENDABLE: Final = "refused by the exporter"
BROKEN: Final = "an error in the relay"
STOPPING_WAIT: Final = 1.0
"""Seconds between attempts while the relay ends, unless the backend asks for more."""
_POLL: Final = 0.02


class Sender(ABC):
    """Sends what the store has of one kind.

    ``start``, ``stop`` and ``join`` are called once each, in this order.
    """

    kind: ClassVar[ItemKind]

    def __init__(self, store: Store, counters: Counters) -> None:
        self._store = store
        self._counters = counters
        self._stopping = Event()
        self._ended = Event()
        self._settling = Lock()
        """Held while an item leaves the store and is counted: both are done, or neither."""
        self._settled = False

    @abstractmethod
    def start(self) -> None:
        """Start to send, in threads that end after ``stop`` or when the store is closed."""

    def stop(self, timeout: float) -> bool:
        """Wait at most ``timeout`` seconds for the store to be empty; tell whether it is.

        No request is begun after that; those under way go on.
        """
        end = time.monotonic() + timeout
        self._stopping.set()
        self._store.flush()
        while self._store.pending(self.kind).items and time.monotonic() < end:
            time.sleep(_POLL)
        self._ended.set()
        self._store.interrupt(self.kind)
        return not self._store.pending(self.kind).items

    def join(self, timeout: float) -> bool:
        """Wait for requests under way, and tell whether all have ended.

        Then count what was not sent as dropped, unless it stays in the spool; what a request that
        is still under way brings is not counted any more.
        """
        ended = self._join(timeout)
        if ended:  # else a thread still uses it
            self._close()
        with self._settling:
            self._settled = True
            left = self._store.pending(self.kind).items
            if not self._store.durable:
                # Not logged here: the report at the relay's end has the number.
                self._counters.dropped(self.kind, left, AT_THE_END, self.failing, log=False)
            elif left:
                reason = f": {self.failing}" if self.failing else ""
                _log.warning("taskobs relay: %d %ss stay in the spool%s", left, self.kind, reason)
        return ended

    @property
    @abstractmethod
    def failing(self) -> str:
        """Why items can't be sent at present; empty if nothing fails."""

    @abstractmethod
    def _join(self, timeout: float) -> bool:
        """Wait for the threads; tell whether they have ended."""

    def _close(self) -> None:  # noqa: B027  # not all have something open
        """Close what is open."""

    def _over(self) -> bool:
        return self._ended.is_set() or self._store.closed

    def _exported(self, batch: Sequence[Stored], rejected: int, reason: str, detail: str) -> None:
        """Count what a backend has accepted, but for those that it says it ``rejected``."""
        with self._settling:
            if not self._settled:
                rejected = min(rejected, len(batch))
                self._counters.dropped(self.kind, rejected, reason, detail)
                self._counters.add(EXPORTED, self.kind, len(batch) - rejected)
                self._store.done(batch)

    def _give_up(self, batch: Sequence[Stored], reason: str, detail: str = "") -> None:
        with self._settling:
            if not self._settled:
                self._counters.dropped(self.kind, len(batch), reason, detail)
                self._store.done(batch)

    def _retrying(self, batch: Sequence[Stored]) -> None:
        self._counters.add(RETRIED, self.kind, len(batch))

    def _without_old(self, batch: list[Stored]) -> list[Stored]:
        """Give up what is older than the store keeps; return the rest."""
        old = [one for one in batch if self._store.is_too_old(one)]
        if old:
            self._give_up(old, TOO_OLD)
        return [one for one in batch if one not in old]
