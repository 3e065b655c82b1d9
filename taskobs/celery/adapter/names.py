"""What to call a task, and its attempt: of what comes with a message, only what is sane."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, cast

MAPPED: Final = frozenset({"celery.map", "celery.starmap"})
_MOST_RETRIES: Final = 2**31


def name_of(task: str, kwargs: object) -> str:
    """Name the inner task of a map, which says more than ``celery.map``."""
    if task in MAPPED and isinstance(kwargs, Mapping):
        inner = cast("Mapping[str, Any]", kwargs).get("task")
        name = cast("Mapping[str, Any]", inner).get("task") if isinstance(inner, Mapping) else None
        return name if isinstance(name, str) else task
    return task


def attempt_of(retries: object) -> int:
    """Number the attempt; ``retries`` come with the message, so they may be anything."""
    return retries + 1 if type(retries) is int and 0 <= retries < _MOST_RETRIES else 1


def text_of(value: object) -> str | None:
    """Return a value that may be missing as text."""
    return None if value is None else str(value)
