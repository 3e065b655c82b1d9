"""The socket connection to the relay, for whichever caller holds the write token.

Nothing here waits, except where the caller says for how long. The socket is that of ``_socket``,
which neither gevent nor eventlet replaces: their sockets would switch to another greenlet in the
middle of a write.
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

_WRITE_WAIT: Final = 0.02
"""Seconds that one write may wait for a relay that doesn't keep up, at most once a second."""
_READ_EVERY: Final = 64
"""Writes between two reads of what the relay has sent. A read is one more system call."""

_TRY_EVERY: Final = 0.1
"""Seconds between two attempts to connect."""
_READ_BYTES: Final = 4_096
_READS: Final = 4
_MAX_REPLY: Final = 1_024
_BUFFER: Final = 1024 * 1024
_NO_SIGNAL: Final[int] = getattr(_socket, "MSG_NOSIGNAL", 0)
_TRANSIENT_ERRORS: Final = frozenset(
    {errno.EAGAIN, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS, errno.EINTR}
)
"""Errors of ``connect`` that say nothing about whether somebody listens."""


class Connection:
    """Writes what an outbox holds, and reads the relay's replies; one caller at a time.

    It connects at the first write, with ``greeting`` as the first frames, and again after a
    connection was lost, at most ten times a second.
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
        self._splitter = Splitter(_MAX_REPLY)
        self._rest: memoryview | None = None
        self._torn = False
        self._blocked = False
        self._wait_allowed_at = 0.0
        self._try_at = 0.0
        self.unavailable = False
        """The relay has been given up: nobody listens, nor ever will again."""
        self.connections = 0
        self.writes = 0
        """Writes that were tried: if the number stands still, the holder of the token is stuck."""
        self._read_at = _READ_EVERY
        self.flushed = 0
        """The number of the last flush that the relay has replied to."""
        self.closed_received = False

    @property
    def up(self) -> bool:
        """Whether there is a connection; that the relay has closed it shows at the next use."""
        return self._socket is not None

    @property
    def cut(self) -> bool:
        """Whether a frame is written only in part."""
        return self._rest is not None

    def read_soon(self) -> None:
        """Read what the relay has sent after the next write."""
        self._read_at = 0

    def fileno(self) -> int:
        """Return the socket's descriptor; -1 without one."""
        return self._socket.fileno() if self._socket else -1

    def exchange(self, wait: float) -> bool:
        """Write and read, as the writer; False if the rest must wait."""
        if self._torn:
            # A time limit's signal raised in the middle of an earlier exchange: perhaps a part of
            # a frame was sent, and nobody knows how much. A new connection starts clean.
            self._reset()
        self._torn = True
        try:
            done = self._write_all(wait)
            if done and (wait or self.writes >= self._read_at):
                self._read(wait)
        except (OSError, FrameError):
            self._reset()
            done = not self.unavailable and time.monotonic() >= self._try_at
        self._torn = False
        return done

    def _write_all(self, wait: float) -> bool:
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
                self._blocked = False
            except BlockingIOError:
                sent = self._send_waiting(wire, data, wait)
            if sent:
                outbox.wrote(frames)
                self._rest = memoryview(data)[sent:] if sent < len(data) else None
            else:
                return False

    def _send_waiting(self, wire: _socket.socket, data: bytes | memoryview, wait: float) -> int:
        """Wait a little for room, unless the last wait was in vain; return the bytes written."""
        now = time.monotonic()
        if not wait and (self._blocked or now < self._wait_allowed_at):
            return 0
        self._wait_allowed_at = now + 1.0
        wire.settimeout(wait or _WRITE_WAIT)
        try:
            sent = wire.send(data, _NO_SIGNAL)
        except TimeoutError:
            self._blocked = True
            return 0
        finally:
            wire.settimeout(0.0)
        self._blocked = False
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
        self._splitter = Splitter(_MAX_REPLY)
        self._rest = None
        self._blocked = False
        self._outbox.connected(self._greeting())
        return wire

    def _is_final(self, error: int | None) -> bool:
        """Return whether nobody listens any more, nor will again."""
        # The worker's main process decides this, and notes it in shared memory: the socket's file
        # may be missing only because somebody removed it, while the relay still reads.
        if error in _TRANSIENT_ERRORS:
            return False
        if self._memory is not None:
            self._address = self._memory.address or self._address
            return self._memory.abandoned
        if error == errno.ENOENT:
            worker = socket_directory.worker_of(self._address)
            return worker is None or not pids.alive(worker, 0)
        return True  # the file is there: the main process has closed its socket

    def _reset(self) -> None:
        """Read the last replies, close, and keep what may not have been received."""
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

    def _read(self, wait: float) -> None:
        """Read what is there, after waiting at most ``wait`` seconds for it.

        Raises:
            OSError: the connection is lost.
            FrameError: the reply is malformed.
        """
        self._read_at = self.writes + _READ_EVERY
        wire = self._socket
        if wire is None:
            return
        for _ in range(_READS):
            wire.settimeout(wait)
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
            wait = 0.0

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
