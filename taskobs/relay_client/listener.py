"""The listening socket of a worker, which its relay inherits."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

from taskobs.internal import forksafe
from taskobs.internal.forksafe import ForkStep
from taskobs.relay_client import socket_directory

_log: Final = logging.getLogger("taskobs")


class Listener:
    """Listens at an address; makes it again when somebody has removed its file. Not thread-safe.

    Raises:
        SocketDirectoryError: no directory can hold a socket.
    """

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ
        self._warned = False
        try:
            self._socket, self.address = socket_directory.listen(environ)
        except OSError as error:
            raise socket_directory.SocketDirectoryError(
                f"there is no place for its socket: {error}"
            ) from error
        self._file = _identity(self.address)
        forksafe.add(self, ForkStep.EXPORT)

    def fileno(self) -> int:
        """Return the socket's descriptor."""
        return self._socket.fileno()

    def listen_again_if_removed(self) -> bool:
        """Bind a new socket if the file of this one was removed; return whether it was.

        A logout removes ``/run/user/UID``, and cleaners remove what is old in ``/tmp``. The old
        socket still works for those that are connected, but nobody can connect to it.

        Raises:
            OSError: there is no place for a socket.
        """
        if _identity(self.address) == self._file:
            return False
        if not self._warned:
            self._warned = True
            _log.warning(
                "taskobs: somebody removed the relay's socket %s; making it again", self.address
            )
        self._socket, previous = self._bind_again(), self._socket
        self._file = _identity(self.address)
        previous.close()
        return True

    def _bind_again(self) -> socket.socket:
        try:
            return socket_directory.listen_at(Path(self.address))
        except OSError:  # its directory can't be made again, as /run/user/UID
            made, self.address = socket_directory.listen(self._environ)
            return made

    def close(self) -> None:
        """Close the socket and remove its file."""
        forksafe.remove(self)
        self._socket.close()
        if self._file is not None and _identity(self.address) == self._file:
            with suppress(OSError):
                Path(self.address).unlink()

    def after_fork(self) -> None:
        """In a forked child: close this copy of the descriptor, and leave the parent's file."""
        with suppress(OSError):
            os.close(self._socket.detach())


def _identity(address: str) -> tuple[int, int] | None:
    """Return what identifies a file beyond its name; None without a file."""
    try:
        found = os.lstat(address)
    except OSError:
        return None
    return found.st_dev, found.st_ino
