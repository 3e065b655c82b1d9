"""The connection to the relay, as the one that writes at the moment uses it.

Nothing here waits, but where a caller gives the time. The socket is the interpreter's own,
which neither gevent nor eventlet replaces.
"""

from __future__ import annotations

import _socket
import errno
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Final

from taskobs.internal import pids
from taskobs.protocol.frames import FrameError, FrameKind, Splitter, unpack
from taskobs.protocol.shared_memory import SharedMemory
from taskobs.relay_client import socket_directory
from taskobs.relay_client.outbox import Outbox

PATIENCE: Final = 0.02
"""Seconds that one write may wait for a relay that doesn't keep up, at most once a second."""
_READ_EVERY: Final = 64
"""Writes after which it is looked for what the relay has said."""

_TRY_EVERY: Final = 0.1
_READ_BYTES: Final = 4_096
_READS: Final = 4
_ANSWER: Final = 1_024
_BUFFER: Final = 1024 * 1024
_NO_SIGNAL: Final[int] = getattr(_socket, "MSG_NOSIGNAL", 0)
_TRANSIENT_ERRORS: Final = frozenset(
    {errno.EAGAIN, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS, errno.EINTR}
)
"""What may keep a connection from being made now, though somebody listens."""


class Connection:
    """Writes what an outbox holds, and reads what the relay answers; one caller at a time.

    It connects when there is need to, with ``greeting`` as the first frames, and again when a
    connection is lost, at most ten times a second.
    """

    def __init__(
        self,
        address: str,
        outbox: Outbox,
        greeting: Callable[[], Iterable[bytes]],
        memory: SharedMemory | None = None,
    ) -> None:
        self._address, self._memory = address, memory
        self._outbox = outbox
        self._greeting = greeting
        self._socket: _socket.socket | None = None
        self._splitter = Splitter(_ANSWER)
        self._rest: memoryview | None = None
        self._torn = False
        self._clogged = False
        self._patient_at = 0.0
        self._try_at = 0.0
        self.unavailable = False
        """Nobody listens at the address, nor ever will again."""
        self.connections = 0
        self.writes = 0
        """All writes that were tried: who finds it standing still finds its writer dead."""
        self._read_at = _READ_EVERY
        self.flushed = 0
        """The last flush that the relay has answered."""
        self.closed_received = False

    @property
    def up(self) -> bool:
        """Whether there is a connection, as far as is known."""
        return self._socket is not None

    @property
    def cut(self) -> bool:
        """Whether a part of a frame is not written yet."""
        return self._rest is not None

    def read_soon(self) -> None:
        """Look at the next occasion what the relay has said."""
        self._read_at = 0

    def fileno(self) -> int:
        """Return the socket's descriptor; -1 without one."""
        return self._socket.fileno() if self._socket else -1

    def exchange(self, answer: float) -> bool:
        """Write and read, as the writer; False if the rest must wait."""
        if self._torn:  # what was written when an exception struck is anybody's guess
            self._hang_up()
        self._torn = True
        try:
            done = self._write_all(answer)
            if done and (answer or self.writes >= self._read_at):
                self._read(answer)
        except (OSError, FrameError):
            self._hang_up()
            done = not self.unavailable and time.monotonic() >= self._try_at
        self._torn = False
        return done

    def _write_all(self, answer: float) -> bool:
        """Write all there is; False if the socket takes no more, or there is none.

        Raises:
            OSError: the connection is lost.
        """
        wire = self._socket or self._connect()
        if wire is None:
            return False
        outbox = self._outbox
        while True:
            frames: list[bytes] = []
            data: bytes | memoryview | None = self._rest
            if data is None:
                frames = outbox.peek()
                if not frames:
                    return True
                data = frames[0] if len(frames) == 1 else b"".join(frames)
            self.writes += 1
            try:
                sent = wire.send(data, _NO_SIGNAL)
                self._clogged = False
            except BlockingIOError:
                sent = self._send_patiently(wire, data, answer)
            if sent:
                outbox.wrote(frames)
                self._rest = memoryview(data)[sent:] if sent < len(data) else None
            else:
                return False

    def _send_patiently(self, wire: _socket.socket, data: bytes | memoryview, answer: float) -> int:
        """Wait a little for room, unless that was of no use lately; return the bytes written."""
        now = time.monotonic()
        if not answer and (self._clogged or now < self._patient_at):
            return 0
        self._patient_at = now + 1.0
        wire.settimeout(answer or PATIENCE)
        try:
            sent = wire.send(data, _NO_SIGNAL)
        except TimeoutError:
            self._clogged = True
            return 0
        finally:
            wire.settimeout(0.0)
        self._clogged = False
        return sent

    # The connection.

    def _connect(self) -> _socket.socket | None:
        now = time.monotonic()
        if now < self._try_at:
            return None
        self._try_at = now + _TRY_EVERY
        try:
            wire = self._socket = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
            wire.settimeout(0.0)
            with suppress(OSError):
                wire.setsockopt(_socket.SOL_SOCKET, _socket.SO_SNDBUF, _BUFFER)
            wire.connect(self._address)
        except (OSError, ValueError) as error:
            self.drop()
            self.unavailable = self._is_final(getattr(error, "errno", None))
            return None
        self.connections += 1
        self._splitter = Splitter(_ANSWER)
        self._rest = None
        self._clogged = False
        self._outbox.connected(self._greeting())
        return wire

    def _is_final(self, error: int | None) -> bool:
        """Tell whether nobody listens, nor ever will again.

        It is the worker's main process that decides this, and says so in shared memory: the
        socket's file may be missing just because somebody removed it, while the relay reads on.
        """
        if error in _TRANSIENT_ERRORS:
            return False
        if self._memory is not None:
            self._address = self._memory.address or self._address
            return self._memory.abandoned
        if error == errno.ENOENT:
            worker = socket_directory.worker_of(self._address)
            return worker is None or not pids.alive(worker, 0)
        return True  # the file is there: the main process has closed its socket

    def _hang_up(self) -> None:
        """Hear the relay's last words, close, and keep what it may not have got."""
        with suppress(OSError, FrameError):
            self._read(0.0)
        self.drop()
        self._rest = None
        self._outbox.lost()

    def drop(self) -> None:
        """Close the socket, whatever state the connection is in."""
        wire = self._socket
        if wire is not None:
            with suppress(OSError):
                wire.close()
        self._socket = None

    # Reading.

    def _read(self, answer: float) -> None:
        """Read what is there, after waiting at most ``answer`` seconds for it.

        Raises:
            OSError: the connection is lost.
            FrameError: this is no relay.
        """
        self._read_at = self.writes + _READ_EVERY
        wire = self._socket
        if wire is None:
            return
        for _ in range(_READS):
            wire.settimeout(answer)
            try:
                data = wire.recv(_READ_BYTES)
            except (BlockingIOError, TimeoutError):
                return
            finally:
                wire.settimeout(0.0)
            if not data:
                raise ConnectionResetError(errno.ECONNRESET, "the relay has hung up")
            for kind, payload in self._splitter.feed(data):
                self._handle(kind, payload)
            answer = 0.0

    def _handle(self, kind: FrameKind, payload: bytes) -> None:
        if kind is FrameKind.CLOSED:
            self.closed_received = True
            return
        number = unpack(payload)
        if not isinstance(number, int):
            raise FrameError(f"{kind.name} without a number")
        if kind is FrameKind.ACK:
            self._outbox.acked(number)
        elif kind is FrameKind.FLUSHED:
            self.flushed = max(self.flushed, number)
