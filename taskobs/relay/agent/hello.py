"""The HELLO payload, in which a process describes itself when it connects or takes a slot."""

from __future__ import annotations

from typing import Final, NamedTuple, cast

from taskobs.protocol import frames
from taskobs.protocol.frames import FrameError

_CLIENT_BYTES: Final = 16
_MAX_ROLE: Final = 64
_MAX_NAME: Final = 256


class Hello(NamedTuple):
    """A HELLO payload."""

    pid: int
    role: str
    name: str
    resource_blob: bytes
    """Its resource, as ``Item`` has it."""
    client: bytes
    """An id that the process has chosen: the same over all of its connections."""
    destinations: list[bytes]
    """The destinations of its Sentry clients."""


def parse(payload: bytes, limit: int) -> Hello:
    """Read a HELLO payload of at most ``limit`` bytes.

    Raises:
        FrameError: it isn't in this release's format.
    """
    given = frames.unpack(payload, limit)
    match given:
        case {
            "v": frames.PROTOCOL,
            "pid": int(pid),
            "role": str(role),
            "resource": dict(),
            "schema_url": str(schema_url),
            "client": bytes(client),
            "name": str(name),
        } if len(client) == _CLIENT_BYTES:
            resource_blob = frames.pack([given["resource"], schema_url])
        case _:
            raise FrameError("not in this release's format")
    found = parse_destinations(given.get("destinations", []))
    return Hello(pid, role[:_MAX_ROLE], name[:_MAX_NAME], resource_blob, client, found)


def parse_destinations(unpacked: object) -> list[bytes]:
    """Check a list of destinations.

    Raises:
        FrameError: it is none.
    """
    if not isinstance(unpacked, list):
        raise FrameError("not a list of destinations")
    found = cast("list[object]", unpacked)
    if not all(isinstance(one, bytes) for one in found):
        raise FrameError("not a destination")
    return cast("list[bytes]", found)
