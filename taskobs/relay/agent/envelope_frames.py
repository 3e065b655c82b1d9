"""Reads the destination and the event id of a Sentry envelope before the relay stores it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Final

from taskobs.protocol import envelopes, frames
from taskobs.protocol.frames import FrameError
from taskobs.relay.storage.base import Store

DESTINATIONS: Final = 64
"""Destinations of which one copy is kept, in place of one with each envelope."""
_MAX_HEAD: Final = 64 * 1024
_EVENT_ID: Final = re.compile(r"[0-9a-fA-F]{32}")


class EnvelopeFrames:
    """Reads the payloads of ENVELOPE frames, and keeps one copy of each destination."""

    def __init__(self) -> None:
        self._destinations: dict[bytes, bytes] = {}

    def read(self, payload: bytes) -> tuple[bytes, bytes, bytes]:
        """Return the destination, the event's id (empty if there is none) and the envelope.

        Raises:
            FrameError: it isn't in this release's format.
        """
        destination, envelope = envelopes.split(payload)
        return self.destination(destination), _event_id(envelope), envelope

    def announce(self, found: Iterable[bytes], store: Store) -> None:
        """Have a store send envelopes to these destinations.

        Raises:
            FrameError: one of them isn't what this release sends, or there are too many.
        """
        destinations = [self.destination(one) for one in found]
        try:
            for destination in destinations:
                store.announce(destination)
        except OverflowError as error:
            raise FrameError(str(error)) from error

    def destination(self, destination: bytes) -> bytes:
        """Return the one copy of a destination that is kept.

        Raises:
            FrameError: it isn't in this release's format.
        """
        found = self._destinations.get(destination)
        if found is None:
            match frames.unpack(destination, _MAX_HEAD):
                case {"dsn": str(), "options": dict()}:
                    pass
                case _:
                    raise FrameError("not in this release's format")
            if len(self._destinations) >= DESTINATIONS:
                self._destinations.clear()
            found = self._destinations[destination] = destination
        return found


def _event_id(envelope: bytes) -> bytes:
    head, _, _ = envelope[:_MAX_HEAD].partition(b"\n")
    try:
        header = json.loads(head)
    except (ValueError, RecursionError):
        return b""
    match header:
        case {"event_id": str(found)} if _EVENT_ID.fullmatch(found):
            return bytes.fromhex(found)
        case _:
            return b""
