"""Ids that two providers give alike, so that their spans can be compared."""

from __future__ import annotations

from itertools import count

from opentelemetry.sdk.trace.id_generator import IdGenerator


class Counted(IdGenerator):
    """Gives ids in their order."""

    def __init__(self) -> None:
        self._numbers = count(1)

    def generate_span_id(self) -> int:
        return next(self._numbers)

    def generate_trace_id(self) -> int:
        return next(self._numbers)
