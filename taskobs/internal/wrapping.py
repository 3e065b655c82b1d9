"""Wraps functions of other libraries, and unwraps them again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import wrapt


class Patches:
    """Wraps attributes of classes and modules until ``remove``."""

    def __init__(self) -> None:
        self._made: list[tuple[Any, str, Any, Any]] = []
        self._live: set[object] = set()

    def wrap(self, target: Any, name: str, around: Callable[..., Any]) -> None:
        """Have ``around(wrapped, instance, args, kwargs)`` called for ``target.name``.

        Wrapping it a second time does nothing.
        """
        if any(patch[:2] == (target, name) for patch in self._made):
            return
        original, live = target.__dict__[name], object()
        wrapper = wrapt.FunctionWrapper(original, around, enabled=lambda: live in self._live)
        self._live.add(live)
        setattr(target, name, wrapper)
        self._made.append((target, name, original, wrapper))

    def remove(self) -> None:
        """Unwrap; a wrapper that somebody else has wrapped since stays, and does nothing."""
        self._live.clear()
        while self._made:
            target, name, original, wrapper = self._made.pop()
            if target.__dict__.get(name) is wrapper:
                setattr(target, name, original)
