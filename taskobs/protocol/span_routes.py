"""Where spans of the app's own provider go: to the exporters of the app, by way of the relay.

A process announces to the relay which exporters a provider has, and its resource. Each packed span
of that provider has one more field at its end, the *route*: a digest of that announcement. A span
without a route goes where the worker's settings say.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from hashlib import sha256
from typing import Any, Final, NamedTuple, cast

from taskobs.protocol import frames
from taskobs.protocol.frames import FrameError
from taskobs.protocol.sanitize import sanitize
from taskobs.protocol.span_encoder import FIELDS, KEY_BYTES

ROUTE_BYTES: Final = 8
MAX_ANNOUNCEMENT: Final = 12 * 1024
"""Bytes of an announcement, which is written to a process's slot beside those of Sentry clients."""
_LIST: Final = b"\xdc"
"""How msgpack begins a list of 16 to 65,535 elements; two bytes with their number follow."""
_WITHOUT: Final = _LIST + FIELDS.to_bytes(2, "big")
_WITH: Final = _LIST + (FIELDS + 1).to_bytes(2, "big")
_BYTES: Final = b"\xc4" + bytes([ROUTE_BYTES])
"""How msgpack begins a value of so many bytes."""


class Route(NamedTuple):
    """What a process has announced."""

    resource_blob: bytes
    """The provider's resource, as ``Item`` has it."""
    exporters: tuple[bytes, ...]
    """Where its spans go: the packed settings of each exporter."""


def with_route(payload: bytes, route: bytes) -> bytes:
    """Add a route to a START or END payload of ``span_encoder``."""
    # Added to the packed bytes, as packing the span once more would double the cost of a span.
    fields = payload[KEY_BYTES + len(_WITHOUT) :]
    return payload[:KEY_BYTES] + _WITH + fields + _BYTES + route


def route_of(packed: bytes) -> bytes:
    """Return the route of a packed span; empty if it has none."""
    return packed[-ROUTE_BYTES:] if packed.startswith(_WITH) else b""


def announcement(
    resource: Mapping[str, object], schema_url: str, exporters: Sequence[bytes]
) -> bytes:
    """Return what a process announces of a provider."""
    blob = frames.pack([sanitize(resource), sanitize(schema_url)])
    return frames.pack({"resource": blob, "exporters": list(exporters)})


def route_for(announced: bytes) -> bytes:
    """Return the route of spans whose provider was announced so."""
    return sha256(announced).digest()[:ROUTE_BYTES]


def parse(announced: bytes) -> Route | None:
    """Read an announcement; None if it announces something else, such as a Sentry client.

    Raises:
        FrameError: it is malformed.
    """
    found = frames.unpack(announced, MAX_ANNOUNCEMENT)
    if not isinstance(found, dict) or "exporters" not in found:
        return None
    match cast("dict[str, Any]", found):
        case {"resource": bytes(blob), "exporters": [*exporters]} if exporters and all(
            isinstance(one, bytes) for one in exporters
        ):
            return Route(blob, tuple(cast("list[bytes]", exporters)))
        case _:
            raise FrameError("no announcement of exporters")
