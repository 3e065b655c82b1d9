"""Where finished telemetry waits to be sent: ``memory`` and ``sqlite`` are the two ways."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Sequence
from typing import ClassVar, Final

from taskobs.relay.counters import Counters
from taskobs.relay.storage.items import Item, ItemKind, Pending, Start, Stored
from taskobs.relay.storage.takers import Takers

TOO_OLD: Final = "older than the spool keeps"
OVERFLOW: Final = "more waits than there is room for"

Released = Callable[[Sequence[object]], None]


def nobody(_: Sequence[object]) -> None:
    """Tell nobody of released sources."""


class Store(Takers):
    """Keeps items until they are sent. Thread-safe.

    ``released`` is given the sources (without the Nones) of items that are sent, given up, or safe
    later than when they came, on the thread that found so, while no lock of the store is held.
    """

    durable: ClassVar[bool]
    """Whether what ``append`` has taken outlives this process, unless it says otherwise."""

    def __init__(self, counters: Counters, released: Released = nobody) -> None:
        super().__init__()
        self._counters = counters
        self._released = released

    @abstractmethod
    def append(
        self, items: Sequence[Item], starts: Sequence[Start] = (), ended: Sequence[bytes] = ()
    ) -> Sequence[object]:
        """Keep ``items``; what there is no room for is dropped, oldest first, and counted.

        A durable store also keeps ``starts``, forgets those with the keys ``ended`` and remembers
        that they have ended, all in one commit. Returns the sources of what outlives this process
        from now on; ``released`` is given those of the others, later. Raises nothing.
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

    def is_too_old(self, stored: Stored) -> bool:
        """Tell whether an item is older than the store keeps."""
        del stored
        return False

    def check(self) -> None:  # the memory needs none
        """Look whether what was kept is still there; call it a few times a second."""

    def is_safe(self, mark: int) -> bool:
        """Tell whether all that was there when ``mark`` was made outlives this process."""
        return self.is_flushed(mark)

    @abstractmethod
    def done(self, stored: Sequence[Stored]) -> None:
        """Forget what is sent, or given up and counted."""

    @abstractmethod
    def pending(self, kind: ItemKind) -> Pending:
        """Count what waits, with what is being sent."""

    def start_put(self, starts: Sequence[Start]) -> None:
        """Keep open spans, if the store is durable."""
        self.append((), starts=starts)

    def start_del(self, keys: Sequence[bytes]) -> None:
        """Forget spans that are open no more."""
        self.append((), ended=keys)

    def starts(self) -> list[Start]:
        """Give the open spans that an earlier relay has kept."""
        return []

    def inherited(self) -> list[Start]:
        """Give, once, the open spans of other relays whose store was taken over meanwhile."""
        return []

    def ended(self) -> list[bytes]:
        """Give the keys of the spans that an earlier relay has seen end, oldest first."""
        return []

    def _release(self, stored: Iterable[Stored]) -> None:
        sources = [one.item.source for one in stored if one.item.source is not None]
        if sources:
            self._released(sources)
