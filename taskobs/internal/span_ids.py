"""Span ids that a worker's main process chooses for a run before its child starts it.

The main process reports a run whose child dies. Because it has chosen the ids, both processes write
the same span, and the spans that the child made under it are its children.
"""

from __future__ import annotations

import os
import re
from contextvars import ContextVar
from typing import Final, Protocol

TRACE_DIGITS: Final = 32
IDS: Final = re.compile(r"(?!0{32})[0-9a-f]{32}(?!0{16})[0-9a-f]{16}")
"""A trace id, used only if the message carries no trace, and a span id."""

NEXT: Final[ContextVar[str | None]] = ContextVar("taskobs_ids", default=None)
"""The ids for the next span; the caller that sets them resets this after the span's start.

The text comes from a message and is untrusted: match it against ``IDS`` before use.
"""


class Generator(Protocol):
    """Makes ids, as OpenTelemetry's interface has it."""

    def generate_trace_id(self) -> int:
        """Return the id of a new trace."""
        ...

    def generate_span_id(self) -> int:
        """Return the id of a new span."""
        ...


_generator: Generator | None = None


def use(generator: Generator | None) -> None:
    """Have ``choose`` return ids of this generator; None for random ones."""
    global _generator  # noqa: PLW0603  # the provider of the process has one
    _generator = generator


def choose() -> str:
    """Return new ids."""
    generator = _generator
    if generator is None:
        return os.urandom(24).hex()
    return f"{generator.generate_trace_id():032x}{generator.generate_span_id():016x}"
