"""What to call a task, and its attempt: of what comes with a message, only what is sane."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, cast

MAPPED: Final = frozenset({"celery.map", "celery.starmap"})
_MOST_RETRIES: Final = 2**31
_NAME_CHARS: Final = 200
_MOST_NAMES: Final = 500
_seen: set[str] = set()


def name_of(task: str, kwargs: object) -> str:
    """Name the inner task of a map, which says more than ``celery.map``."""
    if task in MAPPED and isinstance(kwargs, Mapping):
        inner = cast("Mapping[str, Any]", kwargs).get("task")
        name = cast("Mapping[str, Any]", inner).get("task") if isinstance(inner, Mapping) else None
        return bounded_name(name, task)
    return task


def bounded_name(given: object, otherwise: str) -> str:
    """Return a name that comes with a message, printable and short.

    The first names that a process sees are kept, so that their number is bounded: spans are named
    after tasks. For all others, and for what is no name, it is ``otherwise``.
    """
    if not isinstance(given, (str, int)) or given == "":
        return otherwise
    cut = str(given)[:_NAME_CHARS]
    name = cut if cut.isprintable() else "".join(c if c.isprintable() else "?" for c in cut)
    if name not in _seen:
        if len(_seen) >= _MOST_NAMES:
            return otherwise
        _seen.add(name)
    return name


def attempt_of(retries: object) -> int:
    """Number the attempt; ``retries`` come with the message, so they may be anything."""
    return retries + 1 if type(retries) is int and 0 <= retries < _MOST_RETRIES else 1


def text_of(value: object) -> str | None:
    """Return a value that may be missing as text, or its type's name if it has none."""
    if value is None or type(value) is str:
        return value
    try:
        return str(value)
    except Exception:  # noqa: BLE001  # with pickle, a message may have any object
        return type(value).__name__
