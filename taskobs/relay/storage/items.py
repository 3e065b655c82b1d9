"""The items of a store: finished spans, Sentry's envelopes and log records."""

from __future__ import annotations

from typing import Final, Literal, NamedTuple

ItemKind = Literal["span", "envelope", "log"]
ITEM_KINDS: Final[tuple[ItemKind, ...]] = ("span", "envelope", "log")
SOURCE: Final = 120
"""About how many bytes the number of an item's frame takes in its source until it is settled."""
OVERHEAD: Final = 340 + SOURCE
"""About how many bytes an item takes beside its payload."""


class Item(NamedTuple):
    """A finished span, an envelope of Sentry's, or a log record."""

    kind: ItemKind
    payload: bytes
    """The packed span or log record, or the envelope as it is sent."""
    resource_blob: bytes
    """What items share. Of a span or log record: the packed ``[resource attributes, schema
    url]`` of its process;
    of an envelope: the packed ``{"dsn": ..., "options": {...}}`` of its client."""
    source: object = None
    """What the caller gets back once the item is sent or dropped; not kept on disk."""


class Stored(NamedTuple):
    """An item that waits."""

    id: int
    since: float
    """When it came, on the store's own clock."""
    item: Item


class Pending(NamedTuple):
    """How much of one kind waits, including what is being sent."""

    items: int
    bytes: int


class Start(NamedTuple):
    """An open span, stored so that a later relay can report it as lost."""

    key: bytes
    payload: bytes
    resource_blob: bytes
    client: bytes


def weight(item: Item) -> int:
    """Return about how many bytes an item takes."""
    return len(item.payload) + OVERHEAD
