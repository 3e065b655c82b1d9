"""Plain records of what Celery did, free of Celery's types.

The adapter makes them, observers read them. A record is made once for each publish or run
and is not thread-safe: it belongs to the thread (or greenlet) that the publish or run is in.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from taskobs.model.messages import (
        NOWHERE,
        Broker,
        ContextValue,
        ContextValues,
        Publish,
        TaskMessage,
    )
    from taskobs.model.runs import (
        ChordLinkStore,
        DeadLetter,
        ExternalOutcome,
        Outcome,
        Route,
        Run,
        SpanAddress,
    )
    from taskobs.model.sources import Canvas, Schedule

__all__ = [
    "NOWHERE",
    "Broker",
    "Canvas",
    "ChordLinkStore",
    "ContextValue",
    "ContextValues",
    "DeadLetter",
    "ExternalOutcome",
    "Outcome",
    "Publish",
    "Route",
    "Run",
    "Schedule",
    "SpanAddress",
    "TaskMessage",
]

# Python takes milliseconds to make these classes. So a name is loaded when it is first used, and a
# command that publishes doesn't load what only runs have.
_HOMES: Final = {
    **dict.fromkeys(
        ("NOWHERE", "Broker", "ContextValue", "ContextValues", "Publish", "TaskMessage"),
        "taskobs.model.messages",
    ),
    **dict.fromkeys(
        (
            *("ChordLinkStore", "DeadLetter", "ExternalOutcome", "Outcome", "Route", "Run"),
            "SpanAddress",
        ),
        "taskobs.model.runs",
    ),
    **dict.fromkeys(("Canvas", "Schedule"), "taskobs.model.sources"),
}


def __getattr__(name: str) -> object:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")  # Python's own words
    found = globals()[name] = getattr(import_module(home), name)
    return found
