"""A log record as plain data, and as the payload of a LOG frame: a msgpack list of its fields.

The fields are those of OpenTelemetry's log data model. ``LogDecoder`` makes of a payload what the
SDK's exporters take.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NamedTuple, cast

from taskobs.protocol.frames import FrameError, pack, unpack
from taskobs.protocol.sanitize import UNEXPECTED, sanitize

MAX_LOG: Final = 60 * 1024
"""Bytes of the longest payload. With its header it is a short frame of the ring."""
MAX_BODY: Final = 32 * 1024
"""Bytes of the longest body. The rest is for attributes."""
MAX_TEXT: Final = 16 * 1024
"""Bytes of the longest stack trace."""


class LogEntry(NamedTuple):
    """One log record."""

    timestamp_ns: int
    """When it was made, in nanoseconds since the epoch."""
    observed_ns: int
    """When taskobs saw it."""
    severity_number: int
    """1 to 24; 0 if it has none."""
    severity_text: str
    body: str
    trace_id: str
    """Hexadecimal; empty outside of a span."""
    span_id: str
    trace_flags: int
    scope: str
    """The name of its logger."""
    attributes: Mapping[str, object]
    dropped_attributes: int = 0


def pack_entry(entry: LogEntry) -> bytes:
    """Return the payload of a LOG frame, without the attributes if they have no room in it."""
    try:
        payload = pack(list(entry))
    except UNEXPECTED:
        payload = pack(sanitize(list(entry)))
    if len(payload) <= MAX_LOG:
        return payload
    dropped = entry.dropped_attributes + len(entry.attributes)
    return pack(sanitize(list(entry._replace(attributes={}, dropped_attributes=dropped))))


def unpack_entry(payload: bytes) -> LogEntry:
    """Read a payload.

    Raises:
        FrameError: it isn't what ``pack_entry`` makes.
    """
    found = unpack(payload, MAX_LOG)
    match found:
        case [
            int(),
            int(),
            int(),
            str(),
            str(),
            str(),
            str(),
            int(),
            str(),
            dict(),
            int(),
        ]:
            return LogEntry(*cast("list[Any]", found))
        case _:
            raise FrameError("no log record")


def cut(text: str, most: int, *, end: bool = False) -> str:
    """Return a text of at most ``most`` bytes in UTF-8, with a note if it was longer.

    Half of a surrogate pair becomes ``?``. With ``end``, the text's end is kept.
    """
    # A character takes a byte at least, so a long text need not be encoded as a whole.
    kept = text[-most:] if end else text[:most]
    data = kept.encode("utf-8", "replace")
    if len(data) <= most and len(kept) == len(text):
        return data.decode()
    note = f"[cut by taskobs: {len(text)} characters in all]"
    room = most - len(note) - 1
    short = (data[-room:] if end else data[:room]).decode("utf-8", "ignore")
    return f"{note} {short}" if end else f"{short} {note}"
