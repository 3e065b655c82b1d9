"""Makes any value fit into msgpack and OTLP, which hold less than Python."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

UNEXPECTED: Final = (
    ArithmeticError,
    AttributeError,
    LookupError,
    RuntimeError,
    TypeError,
    ValueError,
)
"""What packing an unexpected value may raise. A soft time limit's exception is not among them."""
_INT_BITS: Final = 63
_DEPTH: Final = 8
_CHARS: Final = 16_384
_ITEMS: Final = 1_000


def sanitize(value: object, depth: int = _DEPTH) -> object:
    """Return ``value`` in a form that msgpack and OTLP can hold, cut if it is long; never raises.

    Half of a surrogate pair becomes ``?``, an integer beyond 64 bits a string, and any other type
    its ``str()``.
    """
    if value is None or isinstance(value, (bool, float)):
        return value
    if isinstance(value, (bytes, bytearray)):
        return bytes(value[:_CHARS])
    if isinstance(value, int) and -(1 << _INT_BITS) <= value < 1 << _INT_BITS:
        return int(value)  # an IntEnum, too
    if depth and isinstance(value, Mapping):
        return _sanitize_map(value, depth)  # pyright: ignore[reportUnknownArgumentType]
    if depth and isinstance(value, Sequence) and not isinstance(value, str):
        return _sanitize_list(value, depth)  # pyright: ignore[reportUnknownArgumentType]
    return _text(value)


def _sanitize_map(value: Mapping[Any, Any], depth: int) -> dict[str, object]:
    pairs: Iterable[tuple[Any, Any]] = list(value.items())[:_ITEMS]
    return {str(sanitize(key, 0)): sanitize(one, depth - 1) for key, one in pairs}


def _sanitize_list(value: Sequence[Any], depth: int) -> list[object]:
    return [sanitize(one, depth - 1) for one in value[:_ITEMS]]


def _text(value: object) -> str:
    try:
        return str(value)[:_CHARS].encode("utf-8", "replace").decode()
    except UNEXPECTED:  # a __str__ that fails, or an int with more digits than Python prints
        return f"<{type(value).__name__}>"
