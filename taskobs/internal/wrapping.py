"""Wrappers around somebody else's functions, which can be taken away again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import wrapt


class Wrappers:
    """Wraps attributes of classes and modules until ``remove``."""

    def __init__(self) -> None:
        self._made: list[tuple[Any, str, Any, Any]] = []
        self._live: set[object] = set()

    def wrap(self, owner: Any, name: str, around: Callable[..., Any]) -> None:
        """Have ``around(wrapped, instance, args, kwargs)`` called for ``owner.name``.

        Wrapping it a second time does nothing.
        """
        if any(known[:2] == (owner, name) for known in self._made):
            return
        original, live = owner.__dict__[name], object()
        wrapper = wrapt.FunctionWrapper(original, around, enabled=lambda: live in self._live)
        self._live.add(live)
        setattr(owner, name, wrapper)
        self._made.append((owner, name, original, wrapper))

    def remove(self) -> None:
        """Unwrap; a wrapper that somebody else has wrapped since stays, and does nothing."""
        self._live.clear()
        while self._made:
            owner, name, original, wrapper = self._made.pop()
            if owner.__dict__.get(name) is wrapper:
                setattr(owner, name, original)
