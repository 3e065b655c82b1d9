"""The ring in a process's slot: frames with checksums, from the process to the relay."""

from __future__ import annotations

from collections.abc import Iterator
from struct import Struct
from typing import Final
from zlib import crc32

from taskobs.protocol.frames import MAX_FRAME
from taskobs.protocol.shared_memory import RING, RING_AT, SharedMemory

RING_HEADER: Final = Struct("=IIB")
"""Before each payload in the ring: its length, its CRC-32 and its kind.

The word that publishes a frame is written after the frame. A processor with weak memory ordering
(ARM) may still let another core see the word first: the reader then finds a wrong checksum and
reads again a little later.
"""
MAX_PAYLOAD: Final = MAX_FRAME - 1
"""Bytes of the longest payload, which is that of the socket's longest frame."""
SHORT: Final = 64 * 1024
"""Bytes of a short frame. Each START is one, and so are most spans and events."""
LONG_FRAMES: Final = RING * 3 // 4
"""How far longer frames may fill the ring: they are few, and would take the room of hundreds.

The longest frame, of 4 MiB, still fits twice the time that the relay takes to read it.
"""
TELEMETRY: Final = RING - 256 * 1024
"""How far telemetry may fill the ring. What is left takes some 8,000 FORGET frames."""
LOGS: Final = RING // 2
"""How far log records may fill the ring, so that a flood of them leaves room for spans."""
CRC_BITS: Final = 32


def stamp(payload: bytes) -> int:
    """Return the word that publishes a payload: its length and checksum."""
    return len(payload) << CRC_BITS | crc32(payload)


def length_of(word: int) -> int:
    """Return the length in a stamp."""
    return word >> CRC_BITS


def read_ring(shared: SharedMemory, index: int, at: int, size: int) -> bytes:
    """Return ``size`` bytes of a slot's ring; ``at`` counts all bytes that were ever written."""
    if size <= 0:
        return b""
    start = at % RING
    first = shared.read(index, RING_AT + start, min(size, RING - start))
    return first + shared.read(index, RING_AT, size - len(first))


def frames_of(data: bytes, size: int) -> Iterator[tuple[int, bytes]]:
    """Yield the kind and payload of each whole frame at the beginning of ``data[:size]``."""
    at = 0
    while at + RING_HEADER.size <= size:
        length, checksum, kind = RING_HEADER.unpack_from(data, at)
        start = at + RING_HEADER.size
        # Each byte may still be invisible to this core, the length too, so it is checked first.
        if length > MAX_PAYLOAD or start + length > size:
            return
        payload = data[start : start + length]
        if crc32(payload) != checksum or not kind:  # zeros have a right checksum, and no kind
            return
        yield kind, payload
        at = start + length
