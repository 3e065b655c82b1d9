"""A Sentry envelope as the payload of a frame: where it goes, then the envelope.

Each payload has its whole destination (the DSN and the options of its Sentry client): a relay that
replaces a killed one reads only the frames that were not acknowledged, and no earlier ones.
"""

from __future__ import annotations

from struct import Struct
from typing import Final

from taskobs.protocol.frames import MAX_FRAME, FrameError

_LENGTH: Final = Struct(">I")


def prefix(destination: bytes) -> bytes:
    """Return what each payload for this destination begins with."""
    return _LENGTH.pack(len(destination)) + destination


def room(destination: bytes) -> int:
    """Return how many bytes an envelope for this destination may have."""
    return MAX_FRAME - 1 - _LENGTH.size - len(destination)


def split(payload: bytes) -> tuple[bytes, bytes]:
    """Return the destination and the envelope.

    Raises:
        FrameError: the payload is too short for what it says.
    """
    if len(payload) < _LENGTH.size:
        raise FrameError("too short")
    (length,) = _LENGTH.unpack_from(payload)
    start = _LENGTH.size + length
    if start > len(payload):
        raise FrameError("too short")
    return payload[_LENGTH.size : start], payload[start:]
