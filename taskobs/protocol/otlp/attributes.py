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
_PAIRS: Final = 16
"""Attributes with one key that are kept encoded: nearly all have one value, or ever other ones."""


class _Key:
    """A key, encoded, and the first attributes with it."""

    __slots__ = ("encoded", "pairs")

    def __init__(self, encoded: bytes) -> None:
        self.encoded = encoded
        self.pairs: dict[object, bytes] = {}


class _Keys(dict[str, _Key]):
    def __missing__(self, key: str) -> _Key:
        content = key.encode()
        found = _Key(_KEY + varint(len(content)) + content)
        if len(key) < _SHORT:
            if len(self) >= _KEYS:
                self.clear()
            self[key] = found
        return found


_keys: Final = _Keys()


def encode_attributes(field: int, attributes: Mapping[str, object] | None) -> bytes:
    """Return attributes as ``KeyValue`` messages in a repeated field.

    Raises:
        TypeError: a value has a type that OTLP has no place for.
        UnicodeEncodeError: a text has half of a surrogate pair.
    """
    if not attributes:
        return b""
    before = tag(field, BYTES)
    found: list[bytes] = []
    for name, value in attributes.items():
        key = _keys[name]
        kind = type(value)
        if kind is str or kind is int:  # nearly all; a bool or a float may equal an int
            pair = key.pairs.get(value) or _encode_pair(key, value)
        else:
            field_of_key = key.encoded + _encode_field(value)
            pair = varint(len(field_of_key)) + field_of_key
        found.append(pair)
    return before + before.join(found)


def _encode_pair(key: _Key, value: object) -> bytes:
    """Return a ``KeyValue`` after its length, and keep it if it is among the first of its key."""
    if type(value) is str and len(value) < _SHORT:
        content = value.encode()
        pair = key.encoded + _short_text[len(content)] + content
    else:
        pair = key.encoded + _encode_field(value)
    found = varint(len(pair)) + pair
    if len(key.pairs) < _PAIRS and len(found) < 2 * _SHORT:
        key.pairs[value] = found
    return found


def _encode_field(value: object) -> bytes:
    """Return the field of a ``KeyValue`` that has its value."""
    content = _encode_value(value)
    return _VALUE + varint(len(content)) + content


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
