"""The relay's side of the socket, for tests of the side that sends."""

from __future__ import annotations

import select
import shutil
import socket
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from opentelemetry.sdk.trace import TracerProvider

from taskobs.protocol.frames import NUMBERED, FrameKind, Splitter, encode, pack

PATIENCE = 60.0


class Frame(NamedTuple):
    kind: FrameKind
    payload: bytes


class Connection:
    """One that a client has made; reads only when it is told to."""

    def __init__(self, wire: socket.socket) -> None:
        self.wire = wire
        self.wire.settimeout(PATIENCE)
        self.frames: list[Frame] = []
        self._splitter = Splitter()

    def receive(self) -> bool:
        """Read once; False at the end of the stream."""
        try:
            data = self.wire.recv(65_536)
        except ConnectionResetError:
            return False
        self.frames += [Frame(*frame) for frame in self._splitter.feed(data)]
        return bool(data)

    def wait_for(self, kind: FrameKind, count: int = 1) -> list[Frame]:
        """Read until so many frames of a kind are there, and give them."""
        while len(self.of(kind)) < count:
            assert self.receive(), f"hung up after {[frame.kind.name for frame in self.frames]}"
        return self.of(kind)

    def read_to_the_end(self) -> list[Frame]:
        while self.receive():
            pass
        return self.frames

    def of(self, kind: FrameKind) -> list[Frame]:
        return [frame for frame in self.frames if frame.kind is kind]

    @property
    def numbered(self) -> list[bytes]:
        return [frame.payload for frame in self.frames if frame.kind in NUMBERED]

    def say(self, kind: FrameKind, value: object = None) -> None:
        self.wire.sendall(encode(kind, b"" if value is None else pack(value)))

    def close(self) -> None:
        self.wire.close()


class Peer:
    """Listens as the worker's parent does; accepts when it is told to."""

    def __init__(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="relay-"))
        self.address = str(self.directory / "s")
        self.listener: socket.socket | None = None
        self.connections: list[Connection] = []
        self.listen()

    def listen(self) -> None:
        Path(self.address).unlink(missing_ok=True)
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(self.address)
        self.listener.listen()
        self.listener.settimeout(PATIENCE)

    def called(self) -> bool:
        """Whether somebody has connected who is not accepted yet."""
        return self.listener is not None and bool(select.select([self.listener], [], [], 0)[0])

    def accept(self) -> Connection:
        assert self.listener is not None
        connection = Connection(self.listener.accept()[0])
        self.connections.append(connection)
        return connection

    def stop_listening(self) -> None:
        if self.listener is not None:
            self.listener.close()
            self.listener = None

    def close(self) -> None:
        self.stop_listening()
        for connection in self.connections:
            connection.close()
        shutil.rmtree(self.directory)


class Beside:
    """Runs a function in a thread; its end is waited for, and what it raises is raised."""

    def __init__(self, work: Callable[[], object]) -> None:
        self._error: BaseException | None = None
        self._work = work
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        try:
            self._work()
        except BaseException as error:  # noqa: BLE001  # told by `__exit__`
            self._error = error

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive()
        if self._error is not None:
            raise self._error


def provider() -> TracerProvider:
    return TracerProvider(shutdown_on_exit=False)
