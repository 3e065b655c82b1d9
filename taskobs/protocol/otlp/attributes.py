"""Attributes as OTLP's ``KeyValue`` messages.

https://github.com/open-telemetry/opentelemetry-proto/blob/main/opentelemetry/proto/common/v1/common.proto
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from struct import Struct
from typing import Any, Final

from taskobs.protocol.otlp.wire_format import BYTES, FIXED64, VARINT, message, tag, varint

Encoder = Callable[[Any], bytes]
_64_BITS: Final = (1 << 64) - 1
_INT64: Final = 1 << 63
_KEY: Final = tag(1, BYTES)
_VALUE: Final = tag(2, BYTES)
_STRING: Final = tag(1, BYTES)
_TRUE, _FALSE = tag(2, VARINT) + b"\x01", tag(2, VARINT) + b"\x00"
_INT: Final = tag(3, VARINT)
_DOUBLE: Final = tag(4, FIXED64)
_pack_double: Final = Struct("<d").pack
_SHORT: Final = 128


class _TextHeads(dict[int, bytes]):
    """Filled as they are used, as the small numbers of ``wire_format`` are."""

    def __missing__(self, size: int) -> bytes:
        string = _STRING + varint(size)
        found = self[size] = _VALUE + varint(len(string) + size) + string
        return found


_short_text: Final = _TextHeads()
"""What comes before a text of so many bytes; a character takes up to four."""
_KEYS: Final = 1024
"""Short keys that are kept encoded; emptied when full, as a task may make keys of its data."""
_keys: Final[dict[str, bytes]] = {}


def encode_attributes(field: int, attributes: Mapping[str, Any] | None) -> bytes:
    """Return attributes as ``KeyValue`` messages in a repeated field.

    Raises:
        TypeError: a value has a type that OTLP has no place for.
        UnicodeEncodeError: a text has half of a surrogate pair.
    """
    if not attributes:
        return b""
    before = tag(field, BYTES)
    found: list[bytes] = []
    for key, value in attributes.items():
        head = _keys.get(key) or _encode_key(key)
        if type(value) is str and len(value) < _SHORT:  # nearly all: without a call
            content = value.encode()
            pair = head + _short_text[len(content)] + content
        else:
            pair = head + _encode_field(value)
        found += (before, varint(len(pair)), pair)
    return b"".join(found)


def _encode_field(value: object) -> bytes:
    """Return the field of a ``KeyValue`` that has its value."""
    content = _encode_value(value)
    return _VALUE + varint(len(content)) + content


def _encode_key(key: str) -> bytes:
    content = key.encode()
    found = _KEY + varint(len(content)) + content
    if len(key) < _SHORT:
        if len(_keys) >= _KEYS:
            _keys.clear()
        _keys[key] = found
    return found


def _encode_value(value: object) -> bytes:
    """Return the content of an ``AnyValue``."""
    encode = _ENCODERS.get(type(value)) or _encoder_for(value)
    return encode(value)


def _encoder_for(value: object) -> Encoder:
    """Return what encodes a value of an unusual type, such as an ``IntEnum`` or a ``BoundedList``.

    Raises:
        TypeError: nothing does.
    """
    for kind, encode in _ENCODERS.items():
        if isinstance(value, kind):
            return encode
    if isinstance(value, Mapping):
        return _map
    if isinstance(value, Sequence):
        return _array
    raise TypeError(f"an attribute of type {type(value).__name__}")


# Which field of an ``AnyValue`` is set matters also where its content is empty or 0.


def _string(value: str) -> bytes:
    content = value.encode()
    return _STRING + varint(len(content)) + content


def _bool(value: bool) -> bytes:  # noqa: FBT001  # one of the encoders
    return _TRUE if value else _FALSE


def _int(value: int) -> bytes:
    if not -_INT64 <= value < _INT64:  # inside a tuple, which `validation` leaves alone
        return _string(str(value))
    return _INT + varint(value & _64_BITS)


def _double(value: float) -> bytes:
    return _DOUBLE + _pack_double(value)


def _bytes(value: bytes) -> bytes:
    return message(7, value)


def _array(values: Sequence[object]) -> bytes:
    return message(5, b"".join([message(1, _encode_value(value)) for value in values]))


def _map(pairs: Mapping[Any, object]) -> bytes:
    return message(6, encode_attributes(1, {str(key): pairs[key] for key in pairs}))


def _nothing(_: None) -> bytes:
    return b""


# A bool is an int too, so it comes first.
_ENCODERS: Final[dict[type, Encoder]] = {
    str: _string,
    bool: _bool,
    int: _int,
    float: _double,
    bytes: _bytes,
    list: _array,
    tuple: _array,
    dict: _map,
    type(None): _nothing,
}
