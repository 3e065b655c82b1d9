"""One client's connection, as the relay sees it."""

from __future__ import annotations

import socket
import struct
from typing import Final

from taskobs.protocol import frames
from taskobs.protocol.frames import FrameError, FrameKind, Splitter
from taskobs.relay.tracking.acknowledgements import Source
from taskobs.relay.tracking.process_state import ProcessState

CHUNK: Final = 256 * 1024
MAX_UNREAD: Final = 64 * 1024
"""Bytes of answers that a client may leave unread."""
MAX_FLUSHES: Final = 64
HELLO_WITHIN: Final = 5.0
"""Seconds in which a client has to say who it is."""
FRAME_WITHIN: Final = 30.0
"""Seconds in which a frame that was begun has to be whole."""
CLOSE_WITHIN: Final = 5.0
"""Seconds in which a client that has heard BYE has to go."""
NO_FRAMES: Final = "does not speak as clients do"
_CREDENTIALS: Final = struct.Struct("3i")


class HangUpError(Exception):
    """This connection is to be ended.

    ``reason``, one of a few, is empty if the client has gone; ``detail`` is for the log.
    """

    def __init__(self, reason: str = "", detail: str = "") -> None:
        super().__init__(reason, detail)
        self.reason, self.detail = reason, detail


class Connection(Source):
    """Reads frames, keeps answers until the client reads them, knows what is acknowledged.

    ``acknowledge`` gives all numbered frames up to the first that is not settled yet.
    """

    def __init__(self, sock: socket.socket, now: float) -> None:
        super().__init__()
        sock.settimeout(0)
        self.socket = sock
        self.process: ProcessState | None = None
        self.pid = peer(sock)[0]
        self.numbered = 0
        """How many numbered frames have come."""
        self.flushes: list[tuple[int, int]] = []
        """Flushes that are not answered: the client's number, and the store's mark."""
        self.received = 0
        """Bytes that have come."""
        self.closing = False
        """It has said CLOSE."""
        self._must_answer_close = False
        self.closed = False
        self._splitter = Splitter()
        self._out = bytearray()
        self._acknowledged = 0
        self._since = now

    @property
    def held(self) -> int:
        """Bytes of a frame that is not whole."""
        return self._splitter.held

    @property
    def weight(self) -> int:
        """Bytes that are kept for it, about, beside what is open in its process."""
        resource_blob = len(self.process.resource_blob) if self.process else 0
        return self.held + len(self._out) + resource_blob

    @property
    def writing(self) -> bool:
        """Whether there are answers that the client has not read."""
        return bool(self._out)

    def receive(self, now: float) -> list[tuple[FrameKind, bytes]]:
        """Return the frames that have come whole; none if nothing came.

        Raises:
            HangUpError: the client has gone, or what it sends is no frame.
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
        if self.process and (found or not before):
            self._since = now
        return found

    def introduced(self, process: ProcessState, now: float) -> None:
        """Know whose connection it is."""
        self.process, self._since = process, now

    def overdue(self, now: float) -> str:
        """Say what has been waited for too long; empty if nothing."""
        waited = now - self._since
        if self.process is None:
            return "it does not say who it is" if waited > HELLO_WITHIN else ""
        if self.closing and waited > CLOSE_WITHIN:
            return "it said goodbye and stays"
        return "a frame does not end" if self.held and waited > FRAME_WITHIN else ""

    # Numbered frames.

    def _number(self) -> int:
        self.numbered += 1
        return self.numbered

    def acknowledge(self) -> None:
        """Tell the client how far all is settled, unless it still has answers to read."""
        first = self._first_unsettled()
        safe = self.numbered if first is None else first - 1
        if safe > self._acknowledged and not self._out:
            self._acknowledged = safe
            self.send(FrameKind.ACK, frames.pack(safe))

    # Answers.

    def note_close(self) -> None:
        """Note a CLOSE, which may come again."""
        self.closing = self._must_answer_close = True

    def answer_close(self) -> None:
        """Answer a CLOSE, if there is one to answer."""
        if self._must_answer_close:
            self._must_answer_close = False
            self.send(FrameKind.CLOSED)

    def send(self, kind: FrameKind, payload: bytes = b"") -> None:
        """Put an answer on its way; ``write`` sends what this can't.

        Raises:
            HangUpError: the client reads no answers, or has gone.
        """
        self._out += frames.encode(kind, payload)
        self.write()
        if len(self._out) > MAX_UNREAD:
            raise HangUpError("does not read its answers", f"{len(self._out)} bytes")

    def write(self) -> None:
        """Send as much as the client's buffer takes."""
        if self.closed or not self._out:
            return
        try:
            del self._out[: self.socket.send(self._out)]
        except (BlockingIOError, InterruptedError):
            return
        except OSError:  # it has gone: what it sent before is still to be read, up to its end
            self._out.clear()

    def close(self) -> None:
        """End it; twice is once."""
        self.closed = True
        self.socket.close()


def peer(sock: socket.socket) -> tuple[int, int]:
    """Return the process id and the user id of whoever connected; -1 where it can't be known.

    Where it can't (macOS), the directory of the socket is what keeps strangers away.
    """
    if not hasattr(socket, "SO_PEERCRED"):
        return -1, -1
    try:
        packed = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    except OSError:
        return -1, -1
    pid, uid, _ = _CREDENTIALS.unpack(packed)
    return pid or -1, uid
