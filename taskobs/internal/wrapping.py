"""Wraps functions of other libraries, and unwraps them again."""

from __future__ import annotations

from collections.abc import Callable
from functools import update_wrapper
from inspect import getattr_static, isclass
from types import BuiltinFunctionType, FunctionType, MethodType
from typing import Any, Final

Around = Callable[..., Any]
"""Is called with the wrapped function, the instance, the arguments and the keyword arguments."""

_INHERITED: Final = object()


class _Switch:
    """Whether a wrapper does anything: an attribute, as a function would be one more call each."""

    on = True


class Patches:
    """Wraps attributes of classes and modules until ``remove``."""

    def __init__(self) -> None:
        self._made: list[tuple[Any, str, Any, Any]] = []
        self._switch = _Switch()

    def wrap(self, target: Any, name: str, around: Around) -> None:
        """Have ``around(wrapped, instance, args, kwargs)`` called for ``target.name``.

        Wrapping it a second time does nothing.
        """
        if any(patch[:2] == (target, name) for patch in self._made):
            return
        # A class may only inherit it: gevent puts a subclass in the place of `threading.Thread`.
        original = target.__dict__.get(name, _INHERITED)
        wrapped = getattr_static(target, name) if original is _INHERITED else original
        wrapper = _maker(target, wrapped)(wrapped, around, self._switch)
        setattr(target, name, wrapper)
        self._made.append((target, name, original, wrapper))

    def remove(self) -> None:
        """Unwrap; a wrapper that somebody else has wrapped since stays, and does nothing."""
        self._switch.on = False
        self._switch = _Switch()  # what is wrapped from now on has its own
        while self._made:
            target, name, original, wrapper = self._made.pop()
            if target.__dict__.get(name) is not wrapper:
                continue
            if original is _INHERITED:
                delattr(target, name)
            else:
                setattr(target, name, original)


def _maker(target: object, wrapped: object) -> Callable[[Any, Around, _Switch], Any]:
    """Return what makes the wrapper: a plain function where a plain function is wrapped."""
    if isclass(target):
        return _method if type(wrapped) is FunctionType else _object
    return _function if type(wrapped) in (FunctionType, BuiltinFunctionType) else _object


def _method(wrapped: Any, around: Around, switch: _Switch) -> Any:
    def call(*args: Any, **kwargs: Any) -> Any:
        if not (args and switch.on):
            return wrapped(*args, **kwargs)
        instance, *rest = args
        return around(MethodType(wrapped, instance), instance, tuple(rest), kwargs)

    return update_wrapper(call, wrapped)


def _function(wrapped: Any, around: Around, switch: _Switch) -> Any:
    def call(*args: Any, **kwargs: Any) -> Any:
        return around(wrapped, None, args, kwargs) if switch.on else wrapped(*args, **kwargs)

    return update_wrapper(call, wrapped)


def _object(wrapped: Any, around: Around, switch: _Switch) -> Any:
    """Wrap what binds in another way than functions do: a static method, another's wrapper."""
    # Imported here: most processes wrap functions alone, and the import takes 3 ms.
    from wrapt import FunctionWrapper

    return FunctionWrapper(wrapped, around, enabled=lambda: switch.on)
