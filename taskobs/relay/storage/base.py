"""Where finished telemetry waits to be sent: ``memory`` and ``spool`` are the two ways."""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from threading import Condition, Lock
from typing import ClassVar, Final, Literal, NamedTuple

from taskobs.relay.counters import Counters

ItemKind = Literal["span", "envelope"]
ITEM_KINDS: Final[tuple[ItemKind, ...]] = ("span", "envelope")
SOURCE: Final = 120
"""What is kept elsewhere for an item until it is out, in bytes, about: its number."""
OVERHEAD: Final = 340 + SOURCE
"""What keeping one item takes beside its payload, in bytes, about."""
_TEND: Final = 30.0
TOO_OLD: Final = "older than the spool keeps"
OVERFLOW: Final = "more waits than there is room for"


class Item(NamedTuple):
    """A finished span, or an envelope of Sentry's."""

    kind: ItemKind
    payload: bytes
    """The packed span, or the envelope as it goes over the wire."""
    resource_blob: bytes
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
    resource_blob: bytes
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
        self._lock = Lock()
        self._ready = {kind: Condition(self._lock) for kind in ITEM_KINDS}
        self._wanted: dict[ItemKind, tuple[int, int]] = {}
        """What its taker waits for, items and bytes: it is woken for no less."""
        self._flush_up_to: dict[ItemKind, int] = dict.fromkeys(ITEM_KINDS, 0)
        """The newest id that is to be taken without lingering; 0 if there is none."""
        self._rushed = Condition(self._lock)
        self._flush_count = 0
        self._held: dict[bytes, int] = {}
        """Destinations on hold. The value is an id: nothing older of that destination waits."""
        self._changes = 0
        """Rises with whatever may give a taker that found all on hold something to take."""
        self._signals: dict[ItemKind, int] = dict.fromkeys(ITEM_KINDS, 0)
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
                self._tend_when_due()
                changes, left = self._changes, max(0.0, end - time.monotonic())
                if self._wait_for(kind, 1, 0, min(_TEND, left), signal):
                    self._wait_for(kind, max_items, max_bytes, max_delay, signal)
                    batch = [] if self._closed else self._take(kind, max_items, max_bytes)
                    if batch or not self._held:
                        return batch
                    self._await_change(kind, changes, min(_TEND, left), signal)
                if left <= 0 or self._signalled(kind, signal):
                    break
            return []

    def put_back(self, stored: Sequence[Stored]) -> None:
        """Have taken items given again, as what is oldest: they could not be sent."""
        with self._lock:
            self._put_back(stored)
            self._changed()

    def hold(self, destination: bytes) -> None:
        """Give no envelope with this ``resource_blob`` until ``release``; others go on."""
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
        """Return what each flush and interrupt makes larger, to be given to ``take``.

        Read it before deciding to wait there, so that none that comes in between is missed.
        """
        return self._signals[kind]

    def interrupt(self, kind: ItemKind) -> None:
        """Have a ``take`` that was given a ``signal`` return, with what there is."""
        with self._lock:
            self._signals[kind] += 1
            self._ready[kind].notify_all()

    @abstractmethod
    def done(self, stored: Sequence[Stored]) -> None:
        """Forget what is out, or given up and counted."""

    @property
    def closed(self) -> bool:
        """Whether it gives nothing any more."""
        return self._closed

    def flush(self) -> int:
        """Have all that is there now taken without lingering; returns the mark for ``passed``."""
        with self._lock:
            last = self._last()
            self._flush_up_to = dict.fromkeys(ITEM_KINDS, last)
            self._flush_count += 1
            self._rushed.notify_all()
            for kind in ITEM_KINDS:
                self._signals[kind] += 1
                self._ready[kind].notify_all()
            return last

    @property
    def flushes(self) -> int:
        """How often a flush was requested."""
        return self._flush_count

    def pause(self, seconds: float, *, ignore_flush: bool) -> bool:
        """Wait; unless ``polite``, not longer than until somebody is in a hurry: then True."""
        with self._lock:
            flushes = self._flush_count
            self._rushed.wait_for(
                lambda: self._closed or (not ignore_flush and self._flush_count != flushes), seconds
            )
            return self._flush_count != flushes and not ignore_flush

    def is_flushed(self, mark: int) -> bool:
        """Tell whether all that was there when ``mark`` was made is out or given up."""
        with self._lock:
            first = [self._first(kind, taken=True) for kind in ITEM_KINDS]
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

    def inherited(self) -> list[Start]:
        """Give, once, the open spans of other relays whose store was taken over meanwhile."""
        return []

    def ended(self) -> list[bytes]:
        """Give the keys of the spans that an earlier relay has seen end, oldest first."""
        return []

    def close(self) -> None:
        """Wake who waits and give nothing any more; what is durable stays."""
        with self._lock:
            self._closed = True
            for waiting in (self._rushed, *self._ready.values()):
                waiting.notify_all()

    def _tend_when_due(self) -> None:
        if time.monotonic() >= self._due:
            self._due = time.monotonic() + _TEND
            self._tend()

    def _tend(self) -> None:  # noqa: B027  # the memory needs none
        """Do what is due now and then, with the lock held."""

    def _hold_from(self, destination: bytes) -> int:
        """Return an id: all that waits for a destination is newer. The lock is held."""
        del destination
        return 0

    def _resume_from(self, first: int) -> None:  # noqa: B027  # the memory needs none
        """Take what is newer than ``first`` into account again. The lock is held."""

    @abstractmethod
    def _put_back(self, stored: Sequence[Stored]) -> None: ...

    def _arrived(self, items: Sequence[Item]) -> None:
        """Wake takers for new items; the lock is held."""
        if self._held and any(item.kind == "envelope" for item in items):
            self._changed()
        self._wake()

    def _changed(self) -> None:
        """Wake a taker that found all envelopes on hold; the lock is held."""
        self._changes += 1
        self._ready["envelope"].notify_all()

    def _await_change(
        self, kind: ItemKind, changes: int, timeout: float, signal: int | None
    ) -> None:
        self._ready[kind].wait_for(
            lambda: self._closed or self._changes != changes or self._signalled(kind, signal),
            timeout,
        )

    def _signalled(self, kind: ItemKind, signal: int | None) -> bool:
        return signal is not None and self._signals[kind] != signal

    def _wait_for(
        self, kind: ItemKind, items: int, size: int, timeout: float, signal: int | None
    ) -> bool:
        """Wait until so much is to be taken, or a flush was requested for what there is."""
        self._wanted[kind] = items, size
        self._ready[kind].wait_for(
            lambda: self._closed or self._enough(kind) or self._signalled(kind, signal), timeout
        )
        found = not self._closed and self._enough(kind)
        del self._wanted[kind]
        return found

    def _enough(self, kind: ItemKind) -> bool:
        items, size = self._wanted[kind]
        count, waiting = self._untaken(kind)
        return bool(count) and (count >= items or 0 < size <= waiting or self._rushes(kind))

    def _rushes(self, kind: ItemKind) -> bool:
        if self._flush_up_to[kind]:
            first = self._first(kind, taken=False)
            if first is not None and first <= self._flush_up_to[kind]:
                return True
            self._flush_up_to[kind] = 0  # what comes is newer
        return False

    def _wake(self) -> None:
        """Wake takers that have what they wait for, with the lock held."""
        for kind in self._wanted:
            if self._enough(kind):
                self._ready[kind].notify_all()

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


def weight(item: Item) -> int:
    """Return how many bytes keeping an item takes, about."""
    return len(item.payload) + OVERHEAD
