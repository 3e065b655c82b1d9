"""Where finished telemetry waits to be sent: in memory, within a bound.

``taskobs.relay.spool`` keeps the same on disk.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from threading import Condition
from typing import ClassVar, Final, Literal, NamedTuple

from taskobs.relay.counters import Counters

ItemKind = Literal["span", "envelope"]
KINDS: Final[tuple[ItemKind, ...]] = ("span", "envelope")
MEMORY: Final = 32 * 1024 * 1024
OVERHEAD: Final = 400
"""What keeping one item costs beside its payload, in bytes, about."""
_TEND: Final = 30.0
TOO_OLD: Final = "older than the spool keeps"
OVERFLOW: Final = "more waits than there is room for"


class Item(NamedTuple):
    """A finished span, or an envelope of Sentry's."""

    kind: ItemKind
    payload: bytes
    """The packed span, or the envelope as it goes over the wire."""
    about: bytes
    """What many share: of a span, the packed ``[resource attributes, schema url]`` of its process;
    of an envelope, the packed ``{"dsn": ..., "options": {...}}`` of its client."""
    source: object = None
    """Whatever the caller wants to have back once the item is out or given up; not kept on disk."""


class Stored(NamedTuple):
    """An item that waits."""

    id: int
    since: float
    """When it came, in seconds since the epoch."""
    item: Item


class Pending(NamedTuple):
    """What waits of one kind, with what is being sent right now."""

    items: int
    bytes: int
    oldest: float | None
    """When the oldest came, in seconds since the epoch."""


class Start(NamedTuple):
    """An open span, so that it can be told of as lost by a later relay."""

    key: bytes
    payload: bytes
    about: bytes
    client: bytes


Released = Callable[[Sequence[object]], None]


def nobody(_: Sequence[object]) -> None:
    """Tell nobody of released sources."""


class Store(ABC):
    """Keeps items until they are sent. Thread-safe; one taker for each kind.

    ``released`` is given the sources (without the Nones) of items that are out or given up, on
    the thread that found so, while no lock of the store is held.
    """

    durable: ClassVar[bool]
    """Whether what ``append`` has taken outlives this process."""

    def __init__(self, counters: Counters, released: Released = nobody) -> None:
        self._counters = counters
        self._released = released
        self._changed = Condition()
        self._hurry = 0
        self._hurried = 0
        self._due = 0.0
        self._closed = False

    age: float | None = None
    """Seconds after which an item is given up; None for as long as there is room."""

    @abstractmethod
    def append(
        self, items: Sequence[Item], starts: Sequence[Start] = (), ended: Sequence[bytes] = ()
    ) -> None:
        """Keep ``items``; what there is no room for is dropped, oldest first, and counted.

        A durable store also keeps ``starts``, forgets those with the keys ``ended`` and remembers
        that they have ended, all in one commit: it is safe when this returns. Raises nothing.
        """

    def take(self, kind: ItemKind, max_items: int, max_bytes: int, linger: float) -> list[Stored]:
        """Wait until something is there, and then ``linger`` seconds more for a full batch.

        What is taken is not given again; it waits on until ``done`` is told of it. At least one
        item is given, however large; none when the store is closed.
        """
        with self._changed:
            self._tend_when_due()
            while not self._wait_for(kind, 1, 0, _TEND):
                if self._closed:
                    return []
                self._tend_when_due()
            self._wait_for(kind, max_items, max_bytes, linger)
            return [] if self._closed else self._take(kind, max_items, max_bytes)

    @abstractmethod
    def done(self, stored: Sequence[Stored]) -> None:
        """Forget what is out, or given up and counted."""

    @property
    def closed(self) -> bool:
        """Whether it gives nothing any more."""
        return self._closed

    def hurry(self) -> int:
        """Have all that is there now taken without lingering; returns the mark for ``passed``."""
        with self._changed:
            self._hurry = self._last()
            self._hurried += 1
            self._changed.notify_all()
            return self._hurry

    def pause(self, seconds: float, *, polite: bool) -> bool:
        """Wait; unless ``polite``, not longer than until somebody is in a hurry: then True."""
        with self._changed:
            hurried = self._hurried
            self._changed.wait_for(
                lambda: self._closed or (not polite and self._hurried != hurried), seconds
            )
            return self._hurried != hurried and not polite

    def passed(self, mark: int) -> bool:
        """Tell whether all that was there when ``mark`` was made is out or given up."""
        with self._changed:
            first = [self._first(kind, taken=True) for kind in KINDS]
        return not any(one is not None and one <= mark for one in first)

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

    def ended(self) -> list[bytes]:
        """Give the keys of the spans that an earlier relay has seen end, oldest first."""
        return []

    def close(self) -> None:
        """Wake who waits and give nothing any more; what is durable stays."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _tend_when_due(self) -> None:
        if time.monotonic() >= self._due:
            self._due = time.monotonic() + _TEND
            self._tend()

    def _tend(self) -> None:  # noqa: B027 - the memory needs none
        """Do what is due now and then, with the lock held."""

    def _wait_for(self, kind: ItemKind, items: int, size: int, timeout: float | None) -> bool:
        """Wait until so much is to be taken, or somebody is in a hurry for what there is."""

        def enough() -> bool:
            if self._closed:
                return True
            count, waiting = self._untaken(kind)
            if count and (count >= items or 0 < size <= waiting):
                return True
            first = self._first(kind, taken=False)
            return first is not None and first <= self._hurry

        return self._changed.wait_for(enough, timeout) and not self._closed

    @abstractmethod
    def _take(self, kind: ItemKind, max_items: int, max_bytes: int) -> list[Stored]: ...

    @abstractmethod
    def _untaken(self, kind: ItemKind) -> tuple[int, int]: ...

    @abstractmethod
    def _first(self, kind: ItemKind, *, taken: bool) -> int | None:
        """Return the oldest id that waits; with ``taken``, also of those that are being sent."""

    @abstractmethod
    def _last(self) -> int: ...

    def _release(self, stored: Iterable[Stored]) -> None:
        sources = [one.item.source for one in stored if one.item.source is not None]
        if sources:
            self._released(sources)


class MemoryStore(Store):
    """Keeps items in memory, at most ``limit`` bytes; they end with the process."""

    durable = False

    def __init__(
        self, counters: Counters, released: Released = nobody, *, limit: int = MEMORY
    ) -> None:
        super().__init__(counters, released)
        self._limit = limit
        self._next = 1
        self._waiting: dict[ItemKind, deque[Stored]] = {kind: deque() for kind in KINDS}
        self._taken: dict[ItemKind, dict[int, Stored]] = {kind: {} for kind in KINDS}
        self._bytes: dict[ItemKind, int] = dict.fromkeys(KINDS, 0)
        """Of what waits untaken."""
        self._taken_bytes: dict[ItemKind, int] = dict.fromkeys(KINDS, 0)

    def append(
        self, items: Sequence[Item], starts: Sequence[Start] = (), ended: Sequence[bytes] = ()
    ) -> None:
        """Keep ``items``; drop the oldest of all for which there is no room."""
        del starts, ended  # they are in the ledger, and end with this process
        now = time.time()
        with self._changed:
            for item in items:
                self._waiting[item.kind].append(Stored(self._next, now, item))
                self._bytes[item.kind] += weight(item)
                self._next += 1
            dropped = self._make_room()
            self._changed.notify_all()
        for kind in KINDS:
            number = sum(one.item.kind == kind for one in dropped)
            self._counters.dropped(kind, number, OVERFLOW)
        self._release(dropped)

    def done(self, stored: Sequence[Stored]) -> None:
        """Forget what is out, or given up and counted."""
        with self._changed:
            for one in stored:
                kind = one.item.kind
                if self._taken[kind].pop(one.id, None) is not None:
                    self._taken_bytes[kind] -= weight(one.item)
        self._release(stored)

    def pending(self, kind: ItemKind) -> Pending:
        """Count what waits, with what is being sent."""
        with self._changed:
            taken, waiting = self._taken[kind], self._waiting[kind]
            oldest = next(iter(taken.values()), waiting[0] if waiting else None)
            return Pending(
                len(taken) + len(waiting),
                self._bytes[kind] + self._taken_bytes[kind],
                oldest.since if oldest else None,
            )

    def _make_room(self) -> list[Stored]:
        dropped: list[Stored] = []
        while sum(self._bytes.values()) + sum(self._taken_bytes.values()) > self._limit:
            queues = [queue for queue in self._waiting.values() if queue]
            if not queues:
                break
            one = min(queues, key=lambda queue: queue[0].id).popleft()
            self._bytes[one.item.kind] -= weight(one.item)
            dropped.append(one)
        return dropped

    def _take(self, kind: ItemKind, max_items: int, max_bytes: int) -> list[Stored]:
        batch: list[Stored] = []
        waiting, size = self._waiting[kind], 0
        while waiting and len(batch) < max_items:
            size += weight(waiting[0].item)
            if batch and size > max_bytes:
                break
            one = waiting.popleft()
            batch.append(one)
            self._taken[kind][one.id] = one
            self._bytes[kind] -= weight(one.item)
            self._taken_bytes[kind] += weight(one.item)
        return batch

    def _untaken(self, kind: ItemKind) -> tuple[int, int]:
        return len(self._waiting[kind]), self._bytes[kind]

    def _first(self, kind: ItemKind, *, taken: bool) -> int | None:
        if taken and self._taken[kind]:
            return next(iter(self._taken[kind]))
        return self._waiting[kind][0].id if self._waiting[kind] else None

    def _last(self) -> int:
        return self._next - 1


def weight(item: Item) -> int:
    """Return how many bytes keeping an item takes, about."""
    return len(item.payload) + OVERHEAD
