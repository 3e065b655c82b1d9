"""Wraps functions of other libraries, and unwraps them again."""

from __future__ import annotations

from collections.abc import Callable
from inspect import getattr_static
from typing import Any, Final

import wrapt

_INHERITED: Final = object()


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
        # A class may only inherit it: gevent puts a subclass in the place of `threading.Thread`.
        original, live = target.__dict__.get(name, _INHERITED), object()
        wrapped = getattr_static(target, name) if original is _INHERITED else original
        wrapper = wrapt.FunctionWrapper(wrapped, around, enabled=lambda: live in self._live)
        self._live.add(live)
        setattr(target, name, wrapper)
        self._made.append((target, name, original, wrapper))

    def remove(self) -> None:
        """Unwrap; a wrapper that somebody else has wrapped since stays, and does nothing."""
        self._live.clear()
        while self._made:
            target, name, original, wrapper = self._made.pop()
            if target.__dict__.get(name) is not wrapper:
                continue
            if original is _INHERITED:
                delattr(target, name)
            else:
                setattr(target, name, original)
