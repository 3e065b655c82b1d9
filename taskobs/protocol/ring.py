"""The ring in a process's slot: frames with a checksum, written at one end, read at the other."""

from __future__ import annotations

from collections.abc import Iterator
from struct import Struct
from typing import Final
from zlib import crc32

from taskobs.protocol.shared_memory import RING

RING_HEADER: Final = Struct("=IIB")
"""Before each frame of the ring: the length of its payload, that one's CRC-32, and its kind.

The checksum is for processors that may show another core the end of a write before its middle.
"""
MAX_PAYLOAD: Final = 64 * 1024
"""Bytes of the longest payload; a longer one goes over the socket."""
CRC_BITS: Final = 32


def stamp(payload: bytes) -> int:
    """Return what a word says of a payload that has been written: its length and checksum."""
    return len(payload) << CRC_BITS | crc32(payload)


def length_of(word: int) -> int:
    """Return the length of the payload that a stamp is of."""
    return word >> CRC_BITS


def unrolled(ring: bytes, at: int, end: int) -> Iterator[tuple[int, bytes]]:
    """Yield the frames between two positions of a ring that is given as a whole."""
    return frames_of(ring[at % RING :] + ring[: at % RING], end - at)


def frames_of(data: bytes, size: int) -> Iterator[tuple[int, bytes]]:
    """Give the kind and payload of each frame in ``size`` bytes; stop at one that isn't whole."""
    at = 0
    while at + RING_HEADER.size <= size:
        length, checksum, kind = RING_HEADER.unpack_from(data, at)
        start = at + RING_HEADER.size
        payload = data[start : start + length]
        if length > MAX_PAYLOAD or start + length > size or crc32(payload) != checksum or not kind:
            return
        yield kind, payload
        at = start + length
