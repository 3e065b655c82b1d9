"""Weak references to exceptions, also to instances of Python's built-in ones, which have none."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any, Final

Reference = weakref.ref[Any]

_WATCHED: Final = "_taskobs_watched"


class _Watched:
    """An attribute that dies with its exception; a pickle has None in its place."""

    def __reduce__(self) -> tuple[type[None], tuple[()]]:
        return type(None), ()


def reference(
    exception: BaseException, died: Callable[[Reference], object] | None = None
) -> Reference:
    """Return a weak reference to an exception, which a built-in one gets an attribute for."""
    watched = _referable(exception)
    if watched is None:
        watched = exception.__dict__[_WATCHED] = _Watched()
    return weakref.ref(watched, died)


def found_reference(exception: BaseException) -> Reference | None:
    """Return a weak reference to an exception if there can be one as the exception is."""
    watched = _referable(exception)
    return None if watched is None else weakref.ref(watched)


def refers_to(found: Reference | None, exception: BaseException) -> bool:
    """Tell whether a reference is to this exception."""
    alive = None if found is None else found()
    return alive is not None and alive is _referable(exception)


def _referable(exception: BaseException) -> object | None:
    if getattr(type(exception), "__weakrefoffset__", 0):
        return exception
    watched = exception.__dict__.get(_WATCHED)
    return watched if isinstance(watched, _Watched) else None
