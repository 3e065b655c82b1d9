"""Protobuf's wire format, as far as OTLP uses it.

https://protobuf.dev/programming-guides/encoding/
"""

from __future__ import annotations

from functools import cache
from typing import Final

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
"""Protobuf's wire types."""
_7_BITS: Final = 0x7F
_MORE: Final = 0x80


def _encode_varint(number: int) -> bytes:
    found = bytearray()
    while number > _7_BITS:
        found.append(number & _7_BITS | _MORE)
        number >>= 7
    found.append(number)
    return bytes(found)


class _SmallVarints(dict[int, bytes]):
    """Filled as they are used: `celery call` imports this for one span."""

    def __missing__(self, number: int) -> bytes:
        found = self[number] = _encode_varint(number)
        return found


_SMALL: Final = _SmallVarints()
"""Nearly all lengths and numbers of a span: to look one up takes a tenth of the time."""
_SMALL_END: Final = 2048


def varint(number: int) -> bytes:
    """Return a number that is not negative."""
    return _SMALL[number] if number < _SMALL_END else _encode_varint(number)


@cache
def tag(field: int, wire_type: int) -> bytes:
    """Return what comes before the content of a field."""
    return varint(field << 3 | wire_type)


def message(field: int, content: bytes) -> bytes:
    """Return a field that holds a message or bytes, also where these are empty."""
    return tag(field, BYTES) + varint(len(content)) + content


# What is empty or 0 is left out, as protobuf does.


def text(field: int, value: str | None) -> bytes:
    """Return a field that holds a text.

    Raises:
        UnicodeEncodeError: it has half of a surrogate pair.
    """
    return message(field, value.encode()) if value else b""


def number(field: int, value: int) -> bytes:
    """Return a field that holds a number."""
    return tag(field, VARINT) + varint(value) if value else b""


def fixed64(field: int, value: int) -> bytes:
    """Return a field that holds 64 bits without a sign."""
    return tag(field, FIXED64) + value.to_bytes(8, "little") if value else b""
