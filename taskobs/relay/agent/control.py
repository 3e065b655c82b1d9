"""The relay's end of the socket pair that its launcher has made for it."""

from __future__ import annotations

import os
import socket
import sys
from contextlib import suppress

from taskobs.protocol.startup import ERRORS_FD, READY


class ControlSocket:
    """Tells the launcher that the relay serves, and takes new listening sockets from it."""

    def __init__(self, descriptor: int) -> None:
        self.socket = socket.socket(fileno=descriptor)
        self.socket.setblocking(False)  # noqa: FBT003  # the standard library's

    def answer(self) -> None:
        """Say that the relay serves from now on, and log to the worker's standard error.

        Until then, the launcher reads the standard error, to be able to say why a relay died.
        """
        sys.stderr.flush()
        with suppress(OSError):
            os.dup2(ERRORS_FD, sys.stderr.fileno())
            self.socket.send(READY)

    def listener(self) -> socket.socket | None:
        """Return a listening socket from the launcher, to replace the current one; usually None."""
        try:
            _, descriptors, _, _ = socket.recv_fds(self.socket, 1, 1)
        except OSError:  # nothing was sent
            return None
        if not descriptors:  # the launcher has ended
            return None
        made = socket.socket(fileno=descriptors[0])
        made.setblocking(False)  # noqa: FBT003  # the standard library's
        return made
