"""What waits in a store: finished spans and Sentry's envelopes."""

from __future__ import annotations

from typing import Final, Literal, NamedTuple

ItemKind = Literal["span", "envelope"]
ITEM_KINDS: Final[tuple[ItemKind, ...]] = ("span", "envelope")
SOURCE: Final = 120
"""What is kept elsewhere for an item until it is out, in bytes, about: its number."""
OVERHEAD: Final = 340 + SOURCE
"""What keeping one item takes beside its payload, in bytes, about."""


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
    """When it came, on the store's own clock."""
    item: Item


class Pending(NamedTuple):
    """What waits of one kind, with what is being sent right now."""

    items: int
    bytes: int


class Start(NamedTuple):
    """An open span, so that it can be told of as lost by a later relay."""

    key: bytes
    payload: bytes
    resource_blob: bytes
    client: bytes


def weight(item: Item) -> int:
    """Return how many bytes keeping an item takes, about."""
    return len(item.payload) + OVERHEAD
