"""One lane, a store and a sender, for each destination of the app's own exporters, and for logs.

So a destination that does not respond holds up no other one, and a flood of log records leaves the
room of spans alone.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from hashlib import sha256
from typing import Any, Final, NamedTuple, cast
from urllib.parse import urlsplit

from taskobs.protocol import frames
from taskobs.protocol.frames import FrameError
from taskobs.relay.counters import Counters
from taskobs.relay.export.otlp import LogSender, SpanSender
from taskobs.relay.storage.base import Store
from taskobs.relay.storage.items import ItemKind

_log: Final = logging.getLogger("taskobs.relay")
LOGS: Final = "logs"
"""The name of the log records' store, beside those of the app's exporters."""
MOST: Final = 8
"""Destinations that something may wait for at a time."""
_NAME: Final = 16
_LOOK_EVERY: Final = 1.0
"""Seconds between two looks for a lane that can be closed, while all are in use."""
_CLOSE_TIMEOUT: Final = 0.5
Mark = tuple[tuple[Store, int], ...]
"""What ``flush`` of each store has returned."""


class Lane(NamedTuple):
    """What waits for one destination, and what sends it."""

    store: Store
    sender: SpanSender | LogSender
    ended: frozenset[bytes]
    """Keys of spans that an earlier relay has stored or sent there."""


class Lanes:
    """Makes lanes, at most ``MOST``; ``make_store`` is given a name for the lane's files.

    Where one more is needed, the lane that was used least recently of those with nothing to send
    is closed: an app may give each pool child's exporter a token of its own in a header.
    ``main`` is the store of all else, with which the lanes share its room. Not thread-safe, but for
    what reads the lanes there are.
    """

    def __init__(self, main: Store, counters: Counters, make_store: Callable[[str], Store]) -> None:
        self._main, self._counters, self._make_store = main, counters, make_store
        self._by_exporter: dict[bytes, Lane] = {}
        """The lane that was used last comes last."""
        self._unusable: set[bytes] = set()
        self._full_until = 0.0
        self.all: tuple[Lane, ...] = ()
        self.logs: Lane | None = None
        """The lane of log records."""

    def has(self, exporter: bytes) -> bool:
        """Tell whether an exporter has a lane, so that ``find`` closes no other one."""
        return exporter in self._by_exporter

    def find(self, exporter: bytes) -> Lane | None:
        """Return the lane of an exporter, which the first call makes; None if that can't be done.

        ``exporter`` is its packed settings.
        """
        lane = self._by_exporter.pop(exporter, None)
        if lane is None:
            usable = exporter not in self._unusable and len(self._unusable) < 2 * MOST
            lane = self._make(exporter) if usable and self._has_room() else None
        if lane is not None:
            self._by_exporter[exporter] = lane
        return lane

    def _has_room(self) -> bool:
        """Tell whether there may be one more lane; closes one if it has nothing to send."""
        if len(self._by_exporter) < MOST:
            return True
        if time.monotonic() < self._full_until:  # asked for each span
            return False
        for exporter, lane in self._by_exporter.items():
            if not lane.store.pending("span").items:
                del self._by_exporter[exporter]
                self._close(lane)
                return True
        self._full_until = time.monotonic() + _LOOK_EVERY
        return False

    def _close(self, lane: Lane) -> None:
        self.all = tuple(one for one in self.all if one is not lane)
        lane.sender.stop(0.0)
        lane.sender.join(_CLOSE_TIMEOUT)  # it only waits for more, so it ends at once
        lane.store.remove()
        if lane.store.directory is not None:
            with suppress(OSError):  # another worker has a file there
                lane.store.directory.rmdir()

    def add_logs(self, exporter: Mapping[str, Any]) -> None:
        """Make the lane of log records; ``exporter`` is as ``make_exporter_adapter`` has it."""

        def make() -> Lane:
            store = self._make_store(LOGS)
            return Lane(store, LogSender(store, self._counters, exporter), frozenset())

        self.logs = self._add(make, "log records")

    def _make(self, exporter: bytes) -> Lane | None:
        def make() -> Lane:
            settings = _settings(exporter)
            store = self._make_store(_name(settings))
            address = _address(settings["endpoint"])
            sender = SpanSender(store, self._counters, settings, address)
            return Lane(store, sender, frozenset(store.ended()))

        lane = self._add(make, "spans of one of the app's exporters")
        if lane is None:
            self._unusable.add(exporter)
        return lane

    def _add(self, make: Callable[[], Lane], what: str) -> Lane | None:
        try:
            lane = make()
            lane.sender.start()
        # Whatever an exporter may raise for settings of its own, or RuntimeError at a limit of
        # threads: what is for this destination is counted, and all else goes on.
        except Exception as error:  # noqa: BLE001
            _log.warning(
                "taskobs relay: %s can't be sent: %s",
                *(what, type(error).__name__),
            )
            return None
        self.all = (*self.all, lane)
        for one in self.stores:
            one.share(len(self.stores))
        return lane

    @property
    def stores(self) -> tuple[Store, ...]:
        """All stores, the main one first."""
        return self._main, *(lane.store for lane in self.all)

    def pending(self, kind: ItemKind) -> int:
        """Return how many items of a kind wait in all stores."""
        return sum(store.pending(kind).items for store in self.stores)

    def flush(self, exporters: Iterable[bytes] | None = None) -> Mark:
        """Have all that waits, for all or for some, sent without a delay; return a mark."""
        found = () if exporters is None else map(self._by_exporter.get, exporters)
        stores = self.stores if exporters is None else [one.store for one in found if one]
        return tuple((store, store.flush()) for store in stores)

    def is_safe(self, mark: Mark) -> bool:
        """Tell whether all that waited when ``mark`` was made outlives this process."""
        # A store that was made later is not in the mark; one that was closed since had nothing.
        there = self.stores
        return all(store.is_safe(one) for store, one in mark if store in there)

    def check(self) -> None:
        """Check that the stored items are still there."""
        for store in self.stores:
            store.check()


def _settings(exporter: bytes) -> Mapping[str, Any]:
    match frames.unpack(exporter):
        case {"protocol": "http/protobuf" | "grpc", "endpoint": str(), "headers": dict()} as found:
            return cast("Mapping[str, Any]", found)
        case _:
            raise FrameError("no settings of an exporter")


def _address(endpoint: str) -> str:
    """Return the host and port of an endpoint; the rest of it may hold secrets."""
    host = urlsplit(endpoint if "://" in endpoint else f"//{endpoint}").netloc.rpartition("@")[2]
    return host or "an endpoint"


def _name(settings: Mapping[str, Any]) -> str:
    """Return a name for a lane's directory: the same after a restart, and without a secret.

    What waits for one tenant of a backend must not be sent with the headers of another one, so
    the headers are part of the digest.
    """
    wanted = [settings["protocol"], settings["endpoint"], sorted(settings["headers"].items())]
    return f"to-{sha256(frames.pack(wanted)).hexdigest()[:_NAME]}"
