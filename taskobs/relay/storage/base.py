"""The interface of a store, in which finished telemetry waits until it is sent.

There are two: ``MemoryStore``, and ``Spool``, which keeps it in an SQLite file.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import ClassVar, Final

from taskobs.relay.counters import Counters
from taskobs.relay.storage.items import Item, ItemKind, Pending, Start, Stored
from taskobs.relay.storage.takers import Takers

TOO_OLD: Final = "older than the spool keeps"
OVERFLOW: Final = "more waits than there is room for"

Released = Callable[[Sequence[object]], None]


def nobody(_: Sequence[object]) -> None:
    """Ignore released sources."""


class Store(Takers):
    """Keeps items until they are sent. Thread-safe.

    ``released`` is called with the sources (without the Nones) of items that were sent or dropped,
    or became safe after ``append`` returned. It is called on any thread, without the store's lock.
    """

    durable: ClassVar[bool]
    """Whether the store outlives this process."""

    def __init__(self, counters: Counters, released: Released = nobody) -> None:
        super().__init__()
        self._counters = counters
        self._released = released

    @abstractmethod
    def append(
        self, items: Sequence[Item], starts: Sequence[Start] = (), ended: Sequence[bytes] = ()
    ) -> Sequence[object]:
        """Keep ``items``; without room for all, the oldest are dropped and counted.

        A durable store also keeps ``starts``, forgets those with the keys ``ended`` and remembers
        that they have ended, all in one commit. Returns the sources of what is safe on disk now;
        ``released`` gets the others later. Raises nothing.
        """

    def announce(self, announcement: bytes) -> None:  # the memory needs none
        """Note a Sentry client: the ``resource_blob`` of envelopes, which are sent only then.

        Raises:
            OverflowError: there are too many.
        """

    @property
    def parked(self) -> int:
        """How many envelopes wait for their Sentry client to be announced."""
        return 0

    @property
    def directory(self) -> Path | None:
        """Where it keeps its files; None if it has none."""
        return None

    @abstractmethod
    def share(self, parts: int) -> None:
        """Use at most one of so many equal parts of the room that it was made with."""

    def remove(self) -> None:
        """Close it, and delete its files: nothing waits in it, and nobody may use it again."""
        self.close()

    def is_too_old(self, stored: Stored) -> bool:
        """Tell whether an item is older than the store keeps."""
        del stored
        return False

    def check(self) -> None:  # the memory needs none
        """Check that the stored items are still there; to be called a few times a second."""

    def is_safe(self, mark: int) -> bool:
        """Return whether all that waited when ``mark`` was made outlives this process."""
        return self.is_flushed(mark)

    @abstractmethod
    def done(self, stored: Sequence[Stored]) -> None:
        """Forget what is sent, or dropped and counted."""

    @abstractmethod
    def pending(self, kind: ItemKind) -> Pending:
        """Count what waits, with what is being sent."""

    def start_put(self, starts: Sequence[Start]) -> None:
        """Store open spans, if the store is durable."""
        self.append((), starts=starts)

    def start_del(self, keys: Sequence[bytes]) -> None:
        """Forget spans that are no longer open."""
        self.append((), ended=keys)

    def starts(self) -> list[Start]:
        """Return the open spans that an earlier relay stored."""
        return []

    def inherited(self) -> list[Start]:
        """Return, once, the open spans of other workers' spools that were taken over."""
        return []

    def ended(self) -> list[bytes]:
        """Return the keys of ended spans that an earlier relay stored, oldest first."""
        return []

    def _release(self, stored: Iterable[Stored]) -> None:
        sources = [one.item.source for one in stored if one.item.source is not None]
        if sources:
            self._released(sources)
