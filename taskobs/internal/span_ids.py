"""Ids of a run's span that are chosen before the run, by a worker's main process for its child.

A run whose process dies is reported by the main process. As that has chosen the ids, both write
one span, and the spans that the child has made under it are its children.
"""

from __future__ import annotations

import os
import re
from contextvars import ContextVar
from typing import Final

TRACE_DIGITS: Final = 32
IDS: Final = re.compile(r"(?!0{32})[0-9a-f]{32}(?!0{16})[0-9a-f]{16}")
"""A trace id, which serves only if nothing was published before the run, and a span id."""

NEXT: Final[ContextVar[str | None]] = ContextVar("taskobs_ids", default=None)
"""The ids that the next span is to have; whoever sets them resets this after its start.

It is text as it came with a message: whoever takes it must hold it against ``IDS``.
"""


def choose() -> str:
    """Return new ids."""
    return os.urandom(24).hex()
