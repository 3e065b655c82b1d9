"""What tests do with a spool: put spans in, look after it, and take out what waits."""

# A test does at once what the spool does every half minute.
# pyright: reportPrivateUsage=false

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING, Final

from taskobs.relay.counters import Counters
from taskobs.relay.storage.items import Item
from taskobs.relay.storage.spool.store import Spool

if TYPE_CHECKING:
    from pathlib import Path

    from taskobs.relay.storage.items import ItemKind
    from taskobs.relay.storage.spool.store import SpoolConfig

BATCH: Final = 1024 * 1024
"""Bytes that ``taken`` takes at once, at most."""


def item(payload: bytes) -> Item:
    """Give a span with this payload; all have the same resource."""
    return Item("span", payload, b"about")


def taken(spool: Spool, kind: ItemKind = "span") -> list[bytes]:
    """Take and forget all that waits."""
    found: list[bytes] = []
    while spool.pending(kind).items:
        batch = spool.take(kind, 100, BATCH, 0)
        found += [one.item.payload for one in batch]
        spool.done(batch)
    return found


def look(spool: Spool) -> None:
    """Have it look for abandoned spools, and after its own, now."""
    with spool._lock:
        spool._maintain()


def leave(config: SpoolConfig, worker: str, pid: int, *payloads: bytes) -> Path:
    """Leave a spool behind as a worker with this pid; return its path."""
    with closing(Spool(Counters(), config._replace(worker=worker, worker_pid=pid))) as spool:
        spool.append([item(payload) for payload in payloads])
        return spool.path
