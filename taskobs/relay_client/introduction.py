"""What a process tells the relay about itself: in its slot, and at the start of a connection."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress

from taskobs.protocol.frames import PROTOCOL, FrameKind, encode, pack
from taskobs.protocol.sanitize import UNEXPECTED, sanitize


class Introduction:
    """Who a process is, and where its Sentry clients send to.

    ``hello`` returns what describes the process (role, name, resource).
    """

    def __init__(self, hello: Callable[[], dict[str, object]]) -> None:
        self.hello = hello
        self._destinations: list[bytes] = []
        self.renew()

    def renew(self) -> None:
        """Be another process, which has been forked."""
        self._id = os.urandom(16)

    def announce(self, destination: bytes) -> bool:
        """Note where a Sentry client sends to; tell whether that is new."""
        if destination in self._destinations:
            return False
        self._destinations.append(destination)
        return True

    @property
    def destinations(self) -> bytes:
        """All that was announced, packed; empty for nothing."""
        return pack(self._destinations) if self._destinations else b""

    def packed(self, **more: object) -> bytes:
        """Return the payload of a HELLO frame."""
        payload: dict[str, object] = {"v": PROTOCOL, "pid": os.getpid(), "client": self._id, **more}
        with suppress(*UNEXPECTED):  # the app's resource may hold anything
            payload = {**self.hello(), **payload}
        return pack(sanitize(payload))

    def greeting(self) -> list[bytes]:
        """Return the frames that a connection begins with."""
        return [encode(FrameKind.HELLO, self.packed(destinations=self._destinations))]
