"""Envelopes to send, and a sender of them that is not started."""

from __future__ import annotations

import json

from taskobs.protocol import frames
from taskobs.relay.counters import Counters
from taskobs.relay.export.envelopes import EnvelopeSender
from taskobs.relay.storage.base import Store
from taskobs.relay.storage.items import Item
from taskobs.relay.storage.memory import MemoryStore
from tests.support.export import Backend


def envelope(number: int, kind: str = "event", message: str = "") -> bytes:
    event = {"event_id": f"{number:032x}", "message": message or f"error {number}"}
    head = {"event_id": event["event_id"], "sent_at": "2026-01-01T00:00:00Z"}
    return b"\n".join(json.dumps(line).encode() for line in (head, {"type": kind}, event)) + b"\n"


def client(dsn: str, **options: object) -> bytes:
    return frames.pack({"key": b"12345678", "dsn": dsn, "options": options})


def item(dsn: str, number: int, kind: str = "event", **options: object) -> Item:
    return Item("envelope", envelope(number, kind), client(dsn, **options))


def sent(store: Store | None = None) -> tuple[Store, Counters, EnvelopeSender]:
    counters = Counters()
    store = store or MemoryStore(counters)
    return store, counters, EnvelopeSender(store, counters)


def bodies(there: Backend) -> list[bytes]:
    return [request.body for request in there.requests]


def numbers(there: Backend) -> list[int]:
    """Give the numbers of the envelopes that came, in their order."""
    heads = (json.loads(body.partition(b"\n")[0]) for body in bodies(there))
    return [int(head["event_id"], 16) for head in heads]
