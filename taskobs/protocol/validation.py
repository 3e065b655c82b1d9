"""Validates an unpacked span: OTLP allows less than msgpack, and the sender is not trusted.

Each function raises ``MalformedError``, or what Python does for a value of another type.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final, NoReturn, cast

if TYPE_CHECKING:  # a command's publish is encoded without OpenTelemetry
    from opentelemetry.util.types import AttributeValue

_PLAIN: Final = frozenset({str, bool, float, bytes})
_DEPTH: Final = 8
"""Nested lists and maps; a deeper one becomes a text."""
_CHARS: Final = 16_384
_INT64: Final = 1 << 63
_UINT64: Final = 1 << 64


class MalformedError(ValueError):
    """A packed span, or its resource, isn't what ``span_encoder`` makes."""


def attributes(attributes: Any) -> dict[str, AttributeValue]:  # noqa: ANN401  # as unpacked
    """Return attributes as they are, but for what OTLP can't hold."""
    pairs: Iterable[tuple[Any, Any]] = attributes.items()  # whatever has none is refused
    for key, value in pairs:
        if type(key) is not str or not (type(value) in _PLAIN or _is_int64(value)):
            break
    else:
        return cast("dict[str, AttributeValue]", attributes)
    return {text(key): _value(value, _DEPTH) for key, value in pairs if value is not None}


def _is_int64(value: Any) -> bool:  # noqa: ANN401  # as unpacked
    return type(value) is int and -_INT64 <= value < _INT64


def _value(value: Any, depth: int) -> Any:  # noqa: ANN401  # as unpacked
    if isinstance(value, int) and not -_INT64 <= value < _INT64:
        return str(value)  # OTLP's integers are signed, with 64 bits
    if isinstance(value, (list, dict)) and not depth:
        return str(cast("object", value))[:_CHARS]
    if isinstance(value, list):
        return [_value(one, depth - 1) for one in cast("Iterable[Any]", value)]
    if isinstance(value, dict):
        pairs = cast("Mapping[Any, Any]", value)
        return {text(key): _value(one, depth - 1) for key, one in pairs.items()}
    return value


def text(value: Any) -> str:  # noqa: ANN401  # as unpacked
    """Return a text."""
    if not isinstance(value, str):
        wrong(f"{type(value).__name__} in the place of a text")
    return value


def optional(value: Any) -> str | None:  # noqa: ANN401  # as unpacked
    """Return a text or None."""
    return None if value is None else text(value)


def number(value: Any) -> int:  # noqa: ANN401  # as unpacked
    """Return a time in nanoseconds, or another number of 64 bits."""
    if not isinstance(value, int) or not 0 <= value < _UINT64:
        wrong("no time")
    return value


def count(value: Any) -> int:  # noqa: ANN401  # as unpacked
    """Return a number, at most as large as OTLP's counts."""
    return min(number(value), 0xFFFF_FFFF)


def wrong(what: str) -> NoReturn:
    """Refuse a span."""
    raise MalformedError(f"no packed span: {what}")
