"""Frames, which a process and the relay exchange, and msgpack for their payloads.

On the socket, a frame is the length of the rest (four bytes, big-endian), one byte for its kind,
and the payload. Payloads are msgpack, with a key before that of a span (``span_encoder``) and a
destination before an envelope (``envelopes``). This module imports neither an SDK nor Celery.
"""

from __future__ import annotations

from enum import IntEnum
from importlib import import_module
from struct import Struct
from typing import Any, Final

PROTOCOL: Final = 6
"""The version in a HELLO. After an upgrade, a relay refuses one of another release."""
MAX_FRAME: Final = 4 * 1024 * 1024
"""Bytes of the longest frame, without its length; the relay disconnects who sends a longer one."""
MAX_CONTAINERS: Final = 20_000
"""Lists and maps in one payload. An empty one takes one byte to send, and 60 bytes of memory."""
MAX_LENGTH: Final = 65_536
"""Elements of one list or map."""
FRAME_HEADER: Final = Struct(">IB")
KEY_BYTES: Final = 24
"""A START or END payload begins with the span's trace id (16 bytes) and span id (8 bytes)."""

_msgpack: Any = import_module("msgpack")  # ships no types
_make_packer: Final = _msgpack.Packer
_unpack: Final = _msgpack.unpackb


class FrameKind(IntEnum):
    """What a frame is."""

    # From a process of the worker.
    HELLO = 1
    START = 2
    FORGET = 3
    """The key of a span whose END was dropped: it has ended, so it is not lost with its process."""
    END = 4
    ENVELOPE = 5
    DROPPED = 6
    FLUSH = 7
    CLOSE = 8
    STATUS = 9
    WAKE = 10
    DESTINATIONS = 11
    """The destinations of a HELLO that was sent already, with a new one."""
    LOG = 12
    METRICS = 13
    """All that the worker's main process has counted, as ``metrics.snapshot`` packs it."""
    # From the relay.
    ACK = 32
    FLUSHED = 33
    CLOSED = 34
    STATUS_REPLY = 35


COUNTED: Final = frozenset({FrameKind.END, FrameKind.ENVELOPE, FrameKind.LOG})
"""The kinds that hold telemetry, and are counted if they are dropped."""
NUMBERED: Final = COUNTED | {FrameKind.FORGET}
"""The kinds that the relay acknowledges. Both sides count them, from 1 on each connection."""

_FRAME_KINDS: Final = {int(kind): kind for kind in FrameKind}


class FrameError(ValueError):
    """What was received is no frame, or its payload isn't what it should be."""


def encode(kind: FrameKind, payload: bytes = b"") -> bytes:
    """Return a whole frame.

    Raises:
        FrameError: the payload is too long for one.
    """
    length = len(payload) + 1
    if length > MAX_FRAME:
        raise FrameError(f"a frame of {length} bytes: at most {MAX_FRAME} are allowed")
    return FRAME_HEADER.pack(length, kind) + payload


class Splitter:
    """Cuts what arrives, in pieces of any size, into frames.

    It holds one unfinished frame at most. The time it takes is proportional to the bytes, however
    small the pieces. It can't be used any more after it has raised. Not thread-safe.
    """

    def __init__(self, limit: int = MAX_FRAME) -> None:
        self._limit = limit
        self._held = bytearray()
        self._need = FRAME_HEADER.size

    @property
    def held(self) -> int:
        """Bytes of the frame that is not complete yet."""
        return len(self._held)

    def feed(self, data: bytes) -> list[tuple[FrameKind, bytes]]:
        """Return the frames that ``data`` completes.

        Raises:
            FrameError: a frame is longer than the limit, or of no known kind.
        """
        if self._held:
            # Not parsed before it is whole: parsing from its start at each piece would take time
            # proportional to the square of its length.
            self._held += data
            if len(self._held) < self._need:
                return []
            data = bytes(self._held)
        frames, used = self._cut(data)
        self._held = bytearray(data[used:])
        return frames

    def _cut(self, data: bytes) -> tuple[list[tuple[FrameKind, bytes]], int]:
        frames: list[tuple[FrameKind, bytes]] = []
        at, size = 0, len(data)
        while size - at >= FRAME_HEADER.size:
            # The length is checked before anything of that length is kept.
            length, number = FRAME_HEADER.unpack_from(data, at)
            kind = _FRAME_KINDS.get(number)
            if kind is None or not 0 < length <= self._limit:
                raise FrameError(f"no frame of the relay: kind {number}, {length} bytes")
            end = at + FRAME_HEADER.size - 1 + length
            if end > size:
                self._need = end - at
                return frames, at
            frames.append((kind, data[at + FRAME_HEADER.size : end]))
            at = end
        self._need = FRAME_HEADER.size
        return frames, at


_idle: Final[list[Any]] = []
_USUAL: Final = 16 * 1024


def pack(value: object) -> bytes:
    """Return ``value``, made of what msgpack knows, as bytes.

    Safe in threads and greenlets, after a fork, and in a finalizer or signal handler that
    interrupts another call. A packer holds its output while it works, so each call takes one off
    a list; a list's ``pop`` and ``append`` are atomic.

    Raises ``TypeError``, ``ValueError`` or ``OverflowError`` for what msgpack doesn't know, and
    for half of a surrogate pair; ``sanitize`` makes it fit.
    """
    try:
        packer = _idle.pop()
    except IndexError:
        packer = _make_packer(buf_size=_USUAL)
    packed: bytes = packer.pack(value)
    # A packer keeps the buffer that it once needed, so one that needed much is thrown away. So is
    # one that has raised (it does not come here): its buffer may hold a half-packed value.
    if len(packed) <= _USUAL:
        _idle.append(packer)
    return packed


def unpack(payload: bytes, limit: int = MAX_FRAME) -> Any:  # noqa: ANN401  # as received
    """Return what ``payload`` holds: None, bool, int, float, str, bytes, and lists and maps of it.

    No other object is ever created, whatever the payload says. Keys of maps are str or bytes.

    Raises:
        FrameError: it is longer than ``limit``, no msgpack, nested deeper than msgpack allows,
            or holds more than ``MAX_CONTAINERS`` lists and maps.
    """
    if len(payload) > limit:
        raise FrameError(f"a payload of {len(payload)} bytes: at most {limit} are allowed")
    # A container takes at least one byte, so a shorter payload can't hold too many.
    # The hook costs a call for each, so short payloads are spared it.
    count = _Count().one if len(payload) > MAX_CONTAINERS else None
    try:
        return _unpack(
            payload,
            list_hook=count,
            object_hook=count,
            ext_hook=_no_extension,
            max_ext_len=0,
            max_array_len=MAX_LENGTH,
            max_map_len=MAX_LENGTH,
            # Other keys could be made to collide in the dict: ints hash to themselves.
            strict_map_key=True,
            timestamp=1,
        )
    except (ValueError, TypeError, RecursionError, OverflowError) as error:
        raise FrameError(f"no payload of the relay: {error}") from error


class _Count:
    def __init__(self) -> None:
        self._left = MAX_CONTAINERS

    def one(self, container: object) -> object:
        self._left -= 1
        if self._left < 0:
            raise ValueError("too many lists and maps")
        return container


def _no_extension(_code: int, _data: bytes) -> object:
    raise ValueError("an extension type")
