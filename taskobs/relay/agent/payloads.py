"""Reads the payloads of frames that are neither telemetry nor a HELLO.

Each function raises ``FrameError`` for what no client of this release sends.
"""

from __future__ import annotations

from typing import Final, NoReturn, cast

from taskobs.protocol import frames
from taskobs.protocol.frames import KEY_BYTES, FrameError, FrameKind
from taskobs.protocol.span_encoder import split

MAX_SMALL: Final = 64 * 1024
"""Bytes of a payload that is neither a span nor an envelope."""


def small(payload: bytes) -> bytes:
    """Return a payload that is neither a span nor an envelope."""
    if len(payload) > MAX_SMALL:
        wrong("too long")
    return payload


def key_of_span(payload: bytes) -> bytes:
    """Return the payload of a FORGET."""
    if len(payload) != KEY_BYTES:
        wrong("no key of a span")
    return payload


def split_span(payload: bytes) -> tuple[bytes, bytes]:
    """Return the key and the packed span of a START or END."""
    if len(payload) <= KEY_BYTES:
        wrong("too short")
    return split(payload)


def flush_in(payload: bytes) -> tuple[int, bytes]:
    """Return the number of a FLUSH, and the route whose spans are meant; empty for all."""
    match frames.unpack(payload, 32):
        case [number, bytes(route)]:
            return count_of(number), route
        case number:
            return count_of(number), b""


def count_of(number: object) -> int:
    """Return a number that is not negative."""
    if not isinstance(number, int) or isinstance(number, bool) or number < 0:
        wrong("no number")
    return number


def dropped_in(payload: bytes) -> dict[FrameKind, int]:
    """Return the counts of a DROPPED, by kind."""
    told = frames.unpack(payload, 96)
    if not isinstance(told, dict):
        wrong("no map")
    counts = cast("dict[object, object]", told)
    return {kind: count_of(counts.get(kind.name, 0)) for kind in frames.COUNTED}


def wrong(what: str) -> NoReturn:
    """Refuse a payload."""
    raise FrameError(what)
