"""Attributes of a span, in two parts: those that it shares with others, and its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias


class SharedAttributes(bytes):
    """Attributes that many spans have, packed once. Nobody changes them."""

    attributes: Mapping[str, Any]
    """What is packed."""


Parts: TypeAlias = "tuple[SharedAttributes, dict[str, Any]]"
"""What a span shares, and its own attributes: none of them with the same key."""


def whole(attributes: dict[str, Any] | Parts) -> dict[str, Any]:
    """Return all attributes of a span."""
    if isinstance(attributes, dict):
        return attributes
    shared, own = attributes
    return {**shared.attributes, **own}
