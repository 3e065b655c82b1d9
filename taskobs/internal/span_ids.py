"""Ids of a run's span that are chosen before the run: by the worker, for its pool children.

A run that dies is told of by the worker's main process. As that has chosen the ids, both tell of
one span, and what the run had made under it hangs on it.
"""

from __future__ import annotations

import os
import re
from contextvars import ContextVar
from typing import Final, NamedTuple

_WRITTEN: Final = re.compile(r"([0-9a-f]{32})([0-9a-f]{16})")


class Ids(NamedTuple):
    """The ids of a span; that of its trace serves only if nothing was published before it."""

    trace_id: int
    span_id: int


NEXT: Final[ContextVar[Ids | None]] = ContextVar("taskobs_ids", default=None)
"""The ids that the next span is to have, if the provider is ours."""


def choose() -> str:
    """Return new ids, as they are handed over."""
    return os.urandom(24).hex()


def read(text: str | None) -> Ids | None:
    """Return what ``choose`` has written; None for anything else."""
    found = _WRITTEN.fullmatch(text) if text else None
    if found is None:
        return None
    ids = Ids(int(found[1], 16), int(found[2], 16))
    return ids if all(ids) else None


def peek() -> Ids | None:
    """Return the ids for the next span."""
    return NEXT.get()


def take() -> Ids | None:
    """Return the ids for the next span; the one after it gets none."""
    ids = NEXT.get()
    if ids is not None:
        NEXT.set(None)
    return ids
