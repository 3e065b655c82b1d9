"""A TCP port that leads to another one, until it is told not to."""

from __future__ import annotations

import socket
import threading
from collections.abc import Generator
from contextlib import contextmanager, suppress
from typing import Literal

HOST = "127.0.0.1"
State = Literal["open", "refusing", "hanging"]


class Gate:
    """Forwards connections to a port of the loopback; a fault strikes open ones too."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._state: State = "open"
        self._sockets: list[socket.socket] = []
        self._server = socket.create_server((HOST, 0))
        self.port: int = self._server.getsockname()[1]
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def cut(self) -> None:
        """Close all connections; new ones are forwarded."""
        sockets, self._sockets = self._sockets, []
        for one in sockets:
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def refuse(self) -> None:
        """Close all connections, and new ones at once."""
        self._state = "refusing"
        self.cut()

    def hang(self) -> None:
        """Forward nothing any more; new connections are accepted, and nobody answers."""
        self._state = "hanging"

    def heal(self) -> None:
        """Forward new connections; those from before are closed."""
        self._state = "open"
        self.cut()

    def close(self) -> None:
        """Listen no more."""
        with suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        self._thread.join()
        self.cut()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self._server.accept()
                if self._state == "refusing":
                    near.close()
                    continue
                far = socket.create_connection((HOST, self._target))
                self._sockets += [near, far]
                for source, target in ((near, far), (far, near)):
                    pump = threading.Thread(target=self._pump, args=(source, target), daemon=True)
                    pump.start()

    def _pump(self, source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                if self._state == "open":
                    target.sendall(data)
        with suppress(OSError):
            target.shutdown(socket.SHUT_RDWR)


@contextmanager
def gate(target: int) -> Generator[Gate]:
    """Have a gate for the length of a block."""
    made = Gate(target)
    try:
        yield made
    finally:
        made.close()
