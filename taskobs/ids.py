"""Ids of a run's span that are chosen before the run: by the worker, for its pool children.

A run that dies is told of by the worker's main process. As that has chosen the ids, both tell of
one span, and what the run had made under it hangs on it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Final, NamedTuple

_WRITTEN: Final = re.compile(r"([0-9a-f]{32})([0-9a-f]{16})")


class Ids(NamedTuple):
    """The ids of a span; that of its trace serves only if nothing was published before it."""

    trace_id: int
    span_id: int


_next: ContextVar[Ids | None] = ContextVar("taskobs_ids", default=None)


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


@contextmanager
def given(ids: Ids | None) -> Generator[None]:
    """Let the first span that is started inside have these ids, if the provider is ours."""
    if ids is None:
        yield
        return
    token = _next.set(ids)
    try:
        yield
    finally:
        _next.reset(token)


def peek() -> Ids | None:
    """Return the ids for the next span."""
    return _next.get()


def take() -> Ids | None:
    """Return the ids for the next span; the one after it gets none."""
    ids = _next.get()
    if ids is not None:
        _next.set(None)
    return ids
