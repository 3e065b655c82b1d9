"""Fast spans, and what stands for the relay that receives them."""

from __future__ import annotations

from typing import Any

import pytest

from taskobs.otel.fast_provider import FastSpanProvider
from taskobs.otel.fast_tracer import FastSpanTracer
from taskobs.protocol.span_encoder import split, unpack_whole_row

NEEDS_FAST_SPANS = pytest.mark.skipif(
    type(FastSpanProvider(shutdown_on_exit=False).get_tracer("")) is not FastSpanTracer,
    reason="this release of the SDK makes its spans in another way",
)


class RecordingClient:
    """Takes the place of the relay's client, and keeps what it receives."""

    unavailable = False

    def __init__(self) -> None:
        self.packed_starts: list[bytes] = []
        self.packed_ends: list[bytes] = []

    @property
    def starts(self) -> list[list[Any]]:
        """The fields of the spans that have started."""
        return [unpack_whole_row(packed) for packed in self.packed_starts]

    @property
    def ends(self) -> list[list[Any]]:
        """The fields of the spans that have ended."""
        return [unpack_whole_row(packed) for packed in self.packed_ends]

    def started(self, key: bytes, payload: bytes) -> None:
        assert payload.startswith(key)
        self.packed_starts.append(split(payload)[1])

    def ended(self, key: bytes, payload: bytes) -> None:
        assert payload.startswith(key)
        self.packed_ends.append(split(payload)[1])

    def undelivered(self, *_: object) -> list[bytes]:
        return []
