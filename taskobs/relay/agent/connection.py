"""The relay's end of one client's connection: frames in, replies out."""

from __future__ import annotations

import socket
import struct
from collections.abc import Sequence
from typing import Final

from taskobs.protocol import frames
from taskobs.protocol.frames import FrameError, FrameKind, Splitter
from taskobs.relay.agent.lanes import Mark
from taskobs.relay.tracking.acknowledgements import Source
from taskobs.relay.tracking.process_state import ProcessState

CHUNK: Final = 256 * 1024
MAX_UNREAD: Final = 64 * 1024
"""Bytes of replies that a client may leave unread."""
MAX_FLUSHES: Final = 64
HELLO_WITHIN: Final = 5.0
"""Seconds after its connect in which a client has to send HELLO."""
FRAME_WITHIN: Final = 30.0
"""Seconds in which a frame has to be complete after its first byte."""
CLOSE_WITHIN: Final = 5.0
"""Seconds in which a client has to close its connection after it sent CLOSE."""
NO_FRAMES: Final = "does not speak as clients do"
_CREDENTIALS: Final = struct.Struct("3i")
"""Linux's ``struct ucred``: process id, user id, group id."""


class HangUpError(Exception):
    """The relay has to close this connection.

    ``reason`` is one of a few fixed texts, as it labels a counter, and empty if the client closed
    the connection; ``detail`` is for the log.
    """

    def __init__(self, reason: str = "", detail: str = "") -> None:
        super().__init__(reason, detail)
        self.reason, self.detail = reason, detail


class Connection(Source):
    """Reads frames, buffers replies until the client reads them, and tracks acknowledgements.

    ``acknowledge`` acknowledges all numbered frames before the first that is not settled yet.
    """

    def __init__(self, sock: socket.socket, now: float) -> None:
        super().__init__()
        sock.settimeout(0)
        self.socket = sock
        self.process: ProcessState | None = None
        self.pid = peer(sock)[0]
        self.numbered = 0
        """How many numbered frames were received."""
        self.flushes: list[tuple[int, bytes | Mark]] = []
        """Unanswered flushes: the client's number, and the route or, then, the marks."""
        self.received = 0
        """Bytes that were received."""
        self.closing = False
        """The client has sent CLOSE."""
        self._must_answer_close = False
        self.closed = False
        self._splitter = Splitter()
        self._out = bytearray()
        self._acknowledged = 0
        self._since = now

    @property
    def held(self) -> int:
        """Bytes of a frame that is not complete."""
        return self._splitter.held

    @property
    def weight(self) -> int:
        """About how many bytes the connection takes, beside its process's open spans."""
        resource_blob = len(self.process.resource_blob) if self.process else 0
        return self.held + len(self._out) + resource_blob

    @property
    def writing(self) -> bool:
        """Whether there are replies that the client has not read."""
        return bool(self._out)

    def receive(self, now: float) -> list[tuple[FrameKind, bytes]]:
        """Return the frames that are complete now; none if nothing was received.

        Raises:
            HangUpError: the client has closed the connection, or sends something else than frames.
        """
        try:
            data = self.socket.recv(CHUNK)
        except (BlockingIOError, InterruptedError):
            return []
        except OSError as error:
            raise HangUpError from error
        if not data:
            raise HangUpError
        before = self.held
        self.received += len(data)
        try:
            found = self._splitter.feed(data)
        except FrameError as error:
            raise HangUpError(NO_FRAMES, str(error)) from error
        # A frame's time runs from its first byte, so a client that sends a byte now and then is
        # cut off too. Before HELLO it runs from the connect.
        if self.process and (found or not before):
            self._since = now
        return found

    def introduced(self, process: ProcessState, now: float) -> None:
        """Note which process connected."""
        self.process, self._since = process, now

    def overdue(self, now: float) -> str:
        """Return what the client is late with; empty if nothing."""
        waited = now - self._since
        if self.process is None:
            return "no HELLO" if waited > HELLO_WITHIN else ""
        if self.closing and waited > CLOSE_WITHIN:
            return "it sent CLOSE and keeps its connection"
        return "a frame is incomplete" if self.held and waited > FRAME_WITHIN else ""

    # Numbered frames.

    def _number(self) -> int:
        self.numbered += 1
        return self.numbered

    def acknowledge(self) -> None:
        """Acknowledge what is settled, unless the client has replies to read first."""
        # An ACK covers all frames before it. To wait loses nothing, and a client that doesn't read
        # can't make the buffer grow.
        first = self._first_unsettled()
        safe = self.numbered if first is None else first - 1
        if safe > self._acknowledged and not self._out:
            self._acknowledged = safe
            self.send(FrameKind.ACK, frames.pack(safe))

    # Replies.

    def note_close(self) -> None:
        """Note a CLOSE; a client may repeat it."""
        self.closing = self._must_answer_close = True

    def answer_close(self) -> None:
        """Reply to a CLOSE that has no reply yet."""
        if self._must_answer_close:
            self._must_answer_close = False
            self.send(FrameKind.CLOSED)

    def send(self, kind: FrameKind, payload: bytes = b"") -> None:
        """Send a reply; what the socket doesn't take now is sent by ``write``.

        Raises:
            HangUpError: the client doesn't read its replies.
        """
        self._out += frames.encode(kind, payload)
        self.write()
        if len(self._out) > MAX_UNREAD:
            raise HangUpError("does not read its answers", f"{len(self._out)} bytes")

    def write(self) -> None:
        """Send as much as the socket takes."""
        if self.closed or not self._out:
            return
        try:
            del self._out[: self.socket.send(self._out)]
        except (BlockingIOError, InterruptedError):
            return
        except OSError:  # closed by the client; what it sent before can still be read
            self._out.clear()

    def close(self) -> None:
        """Close the socket; a second call does nothing."""
        self.closed = True
        self.socket.close()


def settle(sources: Sequence[object]) -> list[Connection]:
    """Mark frames as settled; return the connections that they came from."""
    found: list[Connection] = []
    for one in sources:
        match one:
            case (Source() as source, int(number)):
                source.settle(number)
                if isinstance(source, Connection):
                    found.append(source)
            case _:
                pass
    return found


def peer(sock: socket.socket) -> tuple[int, int]:
    """Return the process id and user id of the client; -1 where they are unavailable.

    Without them (macOS), only the permissions of the socket's directory keep other users out.
    """
    if not hasattr(socket, "SO_PEERCRED"):
        return -1, -1
    # The kernel noted these at the connect: a client can't choose them, and they stay when it ends.
    try:
        packed = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    except OSError:
        return -1, -1
    pid, uid, _ = _CREDENTIALS.unpack(packed)
    return pid or -1, uid  # 0: a process of a pid namespace that can't be seen from here
