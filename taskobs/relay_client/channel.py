"""A process's socket to the relay: requests, replies, and the frames of a process without a slot.

A sender adds a frame to the outbox and, if no other one is writing, writes what waits to a
non-blocking socket. So a frame may be sent from any thread, greenlet, signal handler or finalizer,
also while another one is in the middle of a ``send``.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Final

from taskobs.protocol.frames import FrameError, FrameKind, encode
from taskobs.protocol.shared_memory import SharedMemory
from taskobs.relay_client.connection import Connection
from taskobs.relay_client.outbox import Outbox

_SLICE: Final = 0.02
_STUCK: Final = 5.0
"""Seconds without progress after which the write token is taken from its holder."""
_WRITE_TOKEN: Final = "writer"  # noqa: S105  # a key of a dict


class SocketChannel:
    """An outbox and the connection that sends its frames, without a thread or a lock."""

    def __init__(
        self, address: str, greeting: Callable[[], Iterable[bytes]], memory: SharedMemory | None
    ) -> None:
        self.outbox = Outbox()
        self.connection = Connection(address, self.outbox, greeting, memory)
        self.closed = False
        self._writer: dict[str, object] = {}
        self._progress = (0, 0.0)

    @property
    def has_more(self) -> bool:
        """Whether something is not written yet."""
        return bool(self.outbox) or self.connection.cut

    def queue(self, kind: FrameKind, payload: bytes) -> None:
        """Add a frame to the outbox; without room, it is dropped and counted."""
        try:
            frame = encode(kind, payload)
        except FrameError:
            self.outbox.drop(kind, payload)
        else:
            self.outbox.try_enqueue(frame)

    def settled(self) -> bool:
        """Return whether all frames are written, and acknowledged by the relay."""
        done = self.closed or self.connection.unavailable
        return done or not (self.has_more or self.outbox.unacknowledged)

    # One caller writes at a time: the one whose object is stored under _WRITE_TOKEN, by a dict's
    # ``setdefault``, which is atomic. A lock won't do: a soft time limit's signal may raise
    # between any two calls, so between a lock's ``acquire`` and the ``try`` after it, and the
    # lock would stay taken. Here ``finally`` sees by identity, and without a call, whether the
    # token is this caller's, wherever the signal came.

    def write(self, wait: float = 0.0) -> bool:
        """Write what the outbox holds; False if somebody else is writing.

        With ``wait``, also wait up to as many seconds for the socket to take or bring something.
        """
        writer, connection = self._writer, self.connection
        done = True
        while done and not connection.unavailable and not self.closed:
            me = object()
            try:
                if writer.setdefault(_WRITE_TOKEN, me) is not me:
                    self._reclaim_token()
                    return False
                done = connection.exchange(wait)
            finally:
                if _WRITE_TOKEN in writer and writer[_WRITE_TOKEN] is me:
                    del writer[_WRITE_TOKEN]
            # Only now that the token is free is it decided whether to go on: a frame that another
            # caller added, and could not write, is either seen here or finds the token free.
            if wait or (connection.up and not self.outbox.waiting):
                break
        return True

    def poll(self) -> bool:
        """Read what the relay has sent, or that it has died, and write what waits."""
        self.connection.read_soon()
        return self.write()

    def _reclaim_token(self) -> None:
        """Take the token from a writer that has made no progress for some seconds.

        Python 3.10 lets a signal's exception strike inside ``finally``, before the token is
        released. Should that writer go on all the same, a frame may be torn; the relay then
        closes the connection, and everything is sent again.
        """
        writes, since = self._progress
        now = time.monotonic()
        if writes != self.connection.writes or not since:
            self._progress = (self.connection.writes, now)
        elif now - since > _STUCK:
            self._progress = (writes, now)
            self._writer.clear()

    def settle(self, timeout: float) -> bool:
        """Wait at most ``timeout`` seconds until all is written; False if some is left."""
        end = time.monotonic() + timeout
        self.write()
        while self.has_more and not self.connection.unavailable and not self.closed:
            left = end - time.monotonic()
            if left <= 0:
                break
            self._wait(left)
        return not self.has_more

    def ask(self, question: bytes, answered: Callable[[], bool], timeout: float) -> bool:
        """Send a request, again on each new connection, until the reply or the timeout."""
        end = time.monotonic() + timeout
        asked_on = -1
        self.write()
        while not answered() and not self.connection.unavailable and not self.closed:
            left = end - time.monotonic()
            if left <= 0:
                return False
            # A relay that was killed took the request with it.
            if self.connection.up and asked_on != self.connection.connections:
                asked_on = self.connection.connections
                self.outbox.enqueue(question)
            self._wait(left)
        return answered()

    def _wait(self, left: float) -> None:
        """Write and read, for a slice of the seconds that are left."""
        busy = self.write(min(left, _SLICE)) and self.connection.up
        time.sleep(0.0 if busy else min(left, 0.005))  # lets other greenlets run

    def close(self) -> None:
        """Close the connection; what is not written yet is lost."""
        self.closed = True
        self.connection.drop()
