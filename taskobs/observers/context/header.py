"""Context values in one header of a message."""

from __future__ import annotations

import json
import logging
from collections.abc import MutableMapping
from typing import TYPE_CHECKING, Any, Final, cast

from taskobs import semconv
from taskobs.observers.context import state
from taskobs.observers.context.values import plain

if TYPE_CHECKING:  # the records take a third of what init() imports
    from taskobs.model import ContextValues

HEADER_BYTES: Final = 2048

_log: Final = logging.getLogger("taskobs")
_MOST_WARNINGS: Final = 32
_warned: Final[set[str]] = set()
"""The keys of which the log says that messages go without them."""


def write(headers: MutableMapping[str, object], values: ContextValues | None) -> None:
    """Write values into a message's headers, in the place of whatever is there under this name.

    Celery hands the headers of a run on to its next attempt, so there may be anything.
    """
    text = _written(values) if values else None
    if text is None:
        headers.pop(semconv.HEADER_CONTEXT, None)
    else:
        headers[semconv.HEADER_CONTEXT] = text


def read(text: str) -> ContextValues | None:
    """Return what a message's header has of the keys that are accepted; None if it has nothing.

    The text is from whoever could publish the message. A value that isn't plain is left out.
    """
    if not state.keys or len(text) > HEADER_BYTES:
        return None
    try:
        found: Any = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(found, dict):
        return None
    given = cast("dict[str, object]", found)
    values = {name: plain(given[name]) for name in given if name in state.keys}
    return {name: value for name, value in values.items() if value is not None} or None


def _written(values: ContextValues) -> str | None:
    """Return values as JSON, in ASCII; of too many, those that were set first."""
    kept = dict(values)
    while kept:
        text = json.dumps(kept, separators=(",", ":"))
        if len(text) <= HEADER_BYTES:
            return text
        _warn(kept.popitem()[0])
    return None


def _warn(name: str) -> None:
    if name not in _warned and len(_warned) < _MOST_WARNINGS:
        _warned.add(name)
        _log.warning(
            "taskobs: the context is longer than %d bytes, so that messages go without %s",
            HEADER_BYTES,
            name,
        )
