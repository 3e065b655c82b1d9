"""Ends a span whose process ended without ending it."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from typing import Any, Final

from taskobs import semconv
from taskobs.protocol import frames
from taskobs.protocol.frames import FrameError
from taskobs.protocol.held_spans.marks import row_of
from taskobs.protocol.span_encoder import (
    ATTRIBUTES,
    END_NS,
    KIND,
    NAME,
    START_NS,
    STATUS,
    STATUS_DESCRIPTION,
)

LOST: Final = "lost"
"""``error.type`` of each lost span, and ``celery.outcome`` of a lost run."""
CONSUMER: Final = 4
ERROR: Final = 2
"""As the SDK numbers kinds and statuses."""


def is_open_run(packed: bytes) -> bool:
    """Return whether a packed span is a run without an outcome; False if it is malformed."""
    try:
        row = row_of(packed)
    except FrameError:
        return False
    return _is_open_run(row)


def closed(packed: bytes, end_ns: int, reason: str) -> bytes:
    """Return a packed span that was open as one that was lost at ``end_ns`` (epoch, nanoseconds).

    Raises:
        FrameError: it is no packed span.
    """
    row = row_of(packed)
    attributes = row[ATTRIBUTES]
    if _is_open_run(row):
        attributes[semconv.CELERY_OUTCOME] = LOST
    attributes[semconv.TASKOBS_LOST] = True
    # A span that failed before its process ended keeps its own type of error.
    attributes.setdefault(semconv.ERROR_TYPE, LOST)
    # The clock may have been set back meanwhile: no span ends before it starts.
    row[END_NS] = max(end_ns, row[START_NS])
    row[STATUS], row[STATUS_DESCRIPTION] = ERROR, reason
    return frames.pack(row)


def start_of(packed: bytes) -> int:
    """Return when a packed span began.

    Raises:
        FrameError: it is no packed span.
    """
    return int(row_of(packed)[START_NS])


def latest_start(spans: Iterable[bytes]) -> int:
    """Return when the last of these packed spans began: its process still ran at that time."""
    latest = 0
    for packed in spans:
        with suppress(FrameError):
            latest = max(latest, row_of(packed)[START_NS])
    return latest


def _is_open_run(row: list[Any]) -> bool:
    return (
        row[KIND] == CONSUMER
        and row[NAME].startswith(semconv.RUN_SPAN)
        and semconv.CELERY_OUTCOME not in row[ATTRIBUTES]
    )
