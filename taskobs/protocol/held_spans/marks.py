"""The mark of a held span: which run it belongs to, and whether it is a run itself.

A packed span that has a mark has two more fields at its end. So the relay finds the run of a span
without unpacking it. A span with a mark has no route: only spans of our own provider are held.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from taskobs.protocol import frames
from taskobs.protocol.frames import FrameError
from taskobs.protocol.span_encoder import (
    ATTRIBUTES,
    FIELDS,
    KEY_BYTES,
    KIND,
    NAME,
    START_NS,
    TRACE_FLAGS,
    unpack_whole_row,
)

RUN_BYTES: Final = 8
_LIST: Final = b"\xdc"
"""How msgpack begins a list of 16 to 65,535 elements; two bytes with their number follow."""
_WITHOUT: Final = _LIST + FIELDS.to_bytes(2, "big")
_WITH: Final = _LIST + (FIELDS + 2).to_bytes(2, "big")
_TRUE: Final = b"\xc3"
_BYTES: Final = b"\xc4" + bytes([RUN_BYTES])
"""How msgpack begins a value of so many bytes."""
_IS_RUN_AT: Final = -RUN_BYTES - len(_BYTES) - len(_TRUE)
_SAMPLED: Final = 1


class Mark(NamedTuple):
    """What is added to the fields of a held span, in this order."""

    is_run: bool
    run: bytes
    """The span id of the run that it is in: of nested runs, the outermost. Of a run, its own."""


def with_mark(payload: bytes, mark: Mark) -> bytes:
    """Add a mark to a START or END payload of ``span_encoder``."""
    fields = payload[KEY_BYTES + len(_WITHOUT) :]
    return payload[:KEY_BYTES] + _WITH + fields + frames.pack(mark.is_run) + _BYTES + mark.run


def mark_of(packed: bytes) -> Mark | None:
    """Return the mark of a packed span; None if it has none."""
    if not packed.startswith(_WITH):
        return None
    return Mark(packed[_IS_RUN_AT : _IS_RUN_AT + 1] == _TRUE, packed[-RUN_BYTES:])


def sampled(packed: bytes) -> bytes:
    """Return a held span as it is exported: without its mark, and as one of a sampled trace.

    Raises:
        FrameError: it is no packed span.
    """
    row = row_of(packed)
    del row[FIELDS:]
    # Exporters of the SDK, and backends, leave out a span that says that it is not sampled.
    row[TRACE_FLAGS] |= _SAMPLED
    return frames.pack(row)


def row_of(packed: bytes) -> list[Any]:
    """Unpack a span, with its route or its mark if it has one.

    Raises:
        FrameError: it is no packed span.
    """
    try:
        row = unpack_whole_row(packed)
    except (ValueError, TypeError, AttributeError, LookupError) as error:
        raise FrameError("no packed span") from error
    if len(row) - FIELDS not in {0, 1, 2}:
        raise FrameError("no packed span")
    expected = (
        *((NAME, str), (TRACE_FLAGS, int), (KIND, int)),
        *((START_NS, int), (ATTRIBUTES, dict)),
    )
    if not all(isinstance(row[at], kind) for at, kind in expected):
        raise FrameError("no packed span")
    return row
