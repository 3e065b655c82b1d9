"""One lane, a store and a sender, for each destination of the app's own exporters.

So a destination that does not respond holds up no other one.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from hashlib import sha256
from typing import Any, Final, NamedTuple, cast
from urllib.parse import urlsplit

from taskobs.protocol import frames
from taskobs.protocol.frames import FrameError
from taskobs.relay.counters import Counters
from taskobs.relay.export.otlp import SpanSender
from taskobs.relay.storage.base import Store
from taskobs.relay.storage.items import ItemKind

_log: Final = logging.getLogger("taskobs.relay")
MOST: Final = 8
"""Destinations that one worker's app may have."""
_NAME: Final = 16
Mark = tuple[int, ...]
"""What ``flush`` of each store has returned, in their order."""


class Lane(NamedTuple):
    """What waits for one destination, and what sends it."""

    store: Store
    sender: SpanSender
    ended: frozenset[bytes]
    """Keys of spans that an earlier relay has stored or sent there."""


class Lanes:
    """Makes lanes, at most ``MOST``; ``make_store`` is given a name for the lane's files.

    ``main`` is the store of all else, with which the lanes share its room. Not thread-safe, but for
    what reads the lanes there are.
    """

    def __init__(self, main: Store, counters: Counters, make_store: Callable[[str], Store]) -> None:
        self._main, self._counters, self._make_store = main, counters, make_store
        self._by_exporter: dict[bytes, Lane | None] = {}
        self.all: tuple[Lane, ...] = ()

    def find(self, exporter: bytes) -> Lane | None:
        """Return the lane of an exporter, which the first call makes; None if that can't be done.

        ``exporter`` is its packed settings.
        """
        if exporter not in self._by_exporter:
            if len(self._by_exporter) >= 2 * MOST:
                return None
            self._by_exporter[exporter] = self._make(exporter) if len(self.all) < MOST else None
        return self._by_exporter[exporter]

    def _make(self, exporter: bytes) -> Lane | None:
        try:
            settings = _settings(exporter)
            store = self._make_store(_name(settings))
            address = _address(settings["endpoint"])
            sender = SpanSender(store, self._counters, settings, address)
            lane = Lane(store, sender, frozenset(store.ended()))
            sender.start()
        # Whatever an exporter may raise for settings of its own, or RuntimeError at a limit of
        # threads: what is for this destination is counted, and all else goes on.
        except Exception as error:  # noqa: BLE001
            _log.warning(
                "taskobs relay: spans of one of the app's exporters can't be sent: %s",
                type(error).__name__,
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

    def flush(self) -> Mark:
        """Have all that waits sent without a delay; return a mark for ``is_safe``."""
        return tuple(store.flush() for store in self.stores)

    def is_safe(self, mark: Mark) -> bool:
        """Tell whether all that waited when ``mark`` was made outlives this process."""
        # A store that was made later is not in the mark, and had nothing.
        return all(store.is_safe(one) for store, one in zip(self.stores, mark, strict=False))

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
