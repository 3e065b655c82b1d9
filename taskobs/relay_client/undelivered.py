"""Frames that an unavailable relay may not have read."""

from __future__ import annotations

from collections.abc import Iterable

from taskobs.protocol.frames import FRAME_HEADER


class Undelivered:
    """Keeps payloads by kind until they are taken, once."""

    def __init__(self) -> None:
        self._payloads: dict[int, list[bytes]] = {}

    def add(self, frames: Iterable[tuple[int, bytes]]) -> None:
        """Keep the payloads of these frames."""
        for kind, payload in frames:
            self._payloads.setdefault(kind, []).append(payload)

    def add_encoded(self, frames: Iterable[bytes]) -> None:
        """Keep the payloads of frames as they are on the socket."""
        start = FRAME_HEADER.size  # the byte before the payload is the kind
        self.add((frame[start - 1], frame[start:]) for frame in frames)

    def take(self, kind: int, prefix: bytes) -> list[bytes]:
        """Return the payloads of a kind that begin with ``prefix``; the others stay."""
        found = self._payloads.pop(kind, [])
        others = [payload for payload in found if not payload.startswith(prefix)]
        if others:
            self._payloads.setdefault(kind, []).extend(others)
        return [payload for payload in found if payload.startswith(prefix)]
