"""The HELLO of a process: written to its slot, and first on each connection."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress

from taskobs.protocol.frames import PROTOCOL, FrameKind, encode, pack
from taskobs.protocol.sanitize import UNEXPECTED, sanitize
from taskobs.protocol.shared_memory import MAX_DESTINATIONS


class Introduction:
    """The identity of a process, and the destinations of its Sentry clients and exporters.

    ``hello`` returns what describes the process (role, name, resource).
    """

    def __init__(self, hello: Callable[[], dict[str, object]]) -> None:
        self.hello = hello
        self._destinations: list[bytes] = []
        self.renew()

    def renew(self) -> None:
        """Take a new identity, in a forked process."""
        self._id = os.urandom(16)
        self.metrics: Callable[[], list[bytes]] | None = None
        """Returns the payloads of METRICS frames, in a worker's main process that counts.

        It never raises, and returns none that is too long for a frame.
        """

    def announce(self, destination: bytes) -> bool:
        """Note a destination; return whether it is new."""
        if destination in self._destinations:
            return False
        self._destinations.append(destination)
        return True

    @property
    def destinations(self) -> bytes:
        """The announced destinations, packed; empty if there are none.

        Where not all fit into a slot, the last ones: those that are in use.
        """
        packed = b""
        for first in reversed(range(len(self._destinations))):
            more = pack(self._destinations[first:])
            if packed and len(more) > MAX_DESTINATIONS:
                break
            packed = more
        return packed

    def packed(self, **more: object) -> bytes:
        """Return the payload of a HELLO frame."""
        payload: dict[str, object] = {"v": PROTOCOL, "pid": os.getpid(), "client": self._id, **more}
        with suppress(*UNEXPECTED):  # the app's resource may hold anything
            payload = {**self.hello(), **payload}
        return pack(sanitize(payload))

    def greeting(self) -> list[bytes]:
        """Return the frames that a connection begins with."""
        hello = encode(FrameKind.HELLO, self.packed(destinations=self._destinations))
        # A relay that was restarted has no metrics, and this may be the last moment to send them.
        return [hello, *self._packed_metrics()]

    def _packed_metrics(self) -> list[bytes]:
        payloads = [] if self.metrics is None else self.metrics()
        return [encode(FrameKind.METRICS, payload) for payload in payloads]
