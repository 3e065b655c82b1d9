"""The payloads of METRICS frames: whose metrics they are, and a snapshot of these.

The worker's own have the number 0, those for a metric reader of the app's its number, and its
settings.
"""

from __future__ import annotations

from typing import Final

from taskobs.protocol.frames import FrameError, pack, unpack

OWN: Final = 0


def of_worker(snapshot: bytes) -> bytes:
    """Return the payload for the worker's own metrics."""
    return bytes([OWN]) + snapshot


def of_reader(number: int, settings: bytes, snapshot: bytes) -> bytes:
    """Return the payload for a reader of the app's."""
    return bytes([number]) + pack([settings, snapshot])


def split(payload: bytes) -> tuple[int, bytes]:
    """Return the number of a payload, and the rest of it.

    Raises:
        FrameError: it is empty.
    """
    if not payload:
        raise FrameError("no metrics")
    return payload[0], payload[1:]


def settings_and_snapshot(rest: bytes) -> tuple[bytes, bytes]:
    """Return the two parts of what follows a reader's number.

    Raises:
        FrameError: it is malformed.
    """
    match unpack(rest):
        case [bytes(settings), bytes(snapshot)]:
            return settings, snapshot
        case _:
            raise FrameError("no metrics for a reader")
