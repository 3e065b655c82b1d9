"""A process's end of the relay's socket: it never blocks a task and never raises into one.

There is no thread and no lock. Whoever sends adds a frame to the outbox and, if nobody else
is at it, writes what is there to a non-blocking socket: so a frame may be sent from any thread,
greenlet, signal handler or finalizer, also in the midst of another one's ``send``. The socket
is the interpreter's own, which neither gevent nor eventlet replaces.
"""

from __future__ import annotations

import _socket
import errno
import os
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from taskobs.relay.frames import HEAD, FrameError, Kind, Splitter, encode, pack, unpack
from taskobs.relay.outbox import Outbox
from taskobs.relay.packing import tidy

PROTOCOL: Final = 1
PATIENCE: Final = 0.02
"""Seconds that one write may wait for a relay that doesn't keep up, at most once a second."""

_TRY_EVERY: Final = 0.1
_READ_EVERY: Final = 64
_READ_BYTES: Final = 4_096
_READS: Final = 4
_ANSWER: Final = 1_024
_SLICE: Final = 0.05
_BUFFER: Final = 1024 * 1024
_NO_SIGNAL: Final[int] = getattr(_socket, "MSG_NOSIGNAL", 0)
_LATER: Final = frozenset(
    {errno.EAGAIN, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS, errno.EINTR}
)
"""What may keep a connection from being made now, though somebody listens."""
_WRITER: Final = "writer"
_ODD: Final = (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)


def _nothing() -> None:
    pass


class RelayClient:
    """Sends frames to the relay; one in each process, which connects at its first frame.

    ``hello`` tells of the process (role, name, resource) and is called for each connection.
    When nobody listens at ``address``, nor ever will again, ``gone`` becomes true and
    ``on_gone`` is called once; ``leftover`` returns what the relay may not have got.
    """

    def __init__(
        self,
        address: str,
        hello: Callable[[], dict[str, object]],
        *,
        on_gone: Callable[[], object] = _nothing,
    ) -> None:
        self.address = address
        self._hello = hello
        self._on_gone = on_gone
        self._announced: dict[bytes, bytes] = {}
        self._gone = False
        self._told_gone = False
        self._closed = False
        self._socket: _socket.socket | None = None
        self._forget()

    def _forget(self) -> None:
        self._outbox = Outbox()
        self._writer: dict[str, object] = {}
        self._id = b""
        self._splitter = Splitter(_ANSWER)
        self._rest: memoryview | None = None
        self._torn = False
        self._clogged = False
        self._patient_at = 0.0
        self._try_at = 0.0
        self._unread = 0
        self._connections = 0
        self._asked = 0
        self._flushed = 0
        self._bye = False
        self._left: dict[int, list[bytes]] = {}

    @property
    def gone(self) -> bool:
        """Whether nobody listens at the address, nor ever will again."""
        return self._gone

    def hello(self) -> dict[str, object]:
        """Return what the relay is told of this process."""
        return self._hello()

    # Sending.

    def send(self, kind: Kind, payload: bytes = b"") -> None:
        """Send a frame, now if possible; it is dropped and counted if too much waits."""
        self.put(kind, payload)
        self._write()

    def put(self, kind: Kind, payload: bytes = b"") -> None:
        """Have a frame sent with the next one."""
        try:
            frame = encode(kind, payload)
        except FrameError:
            self._outbox.dropped += 1
        else:
            self._outbox.offer(frame)

    def started(self, key: bytes, payload: bytes) -> None:
        """Send the START of a span; it is sent again to a new relay until the span ends."""
        frame = encode(Kind.START, payload)
        outbox = self._outbox
        outbox.offer(frame)
        self._write()
        outbox.opened(key, frame)  # last: a connection made now would have it twice

    def ended(self, key: bytes, payload: bytes) -> None:
        """Send the END of a span."""
        outbox = self._outbox
        outbox.offer(encode(Kind.END, payload))
        outbox.closed(key)
        self._write()

    def announce(self, key: bytes, payload: bytes) -> None:
        """Send a SENTRY frame, now and at the start of each later connection."""
        if key not in self._announced:
            frame = self._announced[key] = encode(Kind.SENTRY, payload)
            if self._socket is not None:
                self._outbox.insist(frame)

    def open(self) -> None:
        """Connect if not connected, hear what the relay has to say, and send what waits.

        Called now and then by a process that sends nothing for long, it finds out that the relay
        was restarted.
        """
        self._unread = _READ_EVERY
        self._write()

    # The end, or a pause.

    def flush(self, timeout: float) -> bool:
        """Wait at most ``timeout`` seconds until all that the relay got, from anybody, is out."""
        self._asked += 1
        number = self._asked
        return self._ask(encode(Kind.FLUSH, pack(number)), lambda: self._flushed >= number, timeout)

    def settle(self, timeout: float) -> bool:
        """Wait at most ``timeout`` seconds until all is written; False if some is left."""
        end = time.monotonic() + timeout
        self._write()
        while (self._outbox or self._rest is not None) and not self._gone and not self._closed:
            left = end - time.monotonic()
            if left <= 0:
                return False
            self._wait(left)
        return True

    def goodbye(self, timeout: float) -> bool:
        """Hand over what waits, within ``timeout`` seconds, and close; False if some is left.

        A process that has sent nothing doesn't connect to say so.
        """
        if not self._outbox and not self._connections:
            self.close()
            return True
        done = self._ask(encode(Kind.GOODBYE), lambda: self._bye, timeout)
        self.close()
        return done

    def close(self) -> None:
        """Hang up; what is not written yet is lost, and so is what is sent from now on."""
        self._closed = True
        self._drop_socket()

    def after_fork(self) -> None:
        """In a forked child: be a client of its own, that hasn't connected yet."""
        self._drop_socket()
        self._forget()

    def leftover(self, kind: Kind, prefix: bytes = b"") -> list[bytes]:
        """Return, once, the payloads that a relay that is gone may not have got.

        Those of this kind that begin with ``prefix``; the others are kept for whom they belong to.
        """
        if not self._gone:
            return []
        for frame in self._outbox.empty():
            self._left.setdefault(frame[HEAD.size - 1], []).append(frame[HEAD.size :])
        left = self._left.pop(int(kind), [])
        others = [payload for payload in left if not payload.startswith(prefix)]
        if others:
            self._left.setdefault(int(kind), []).extend(others)
        return [payload for payload in left if payload.startswith(prefix)]

    def _wait(self, left: float) -> None:
        """Let something happen, for a slice of the seconds that are left."""
        if not self._write(min(left, _SLICE)) or self._socket is None:
            time.sleep(min(left, 0.005))

    # Writing. One at a time: who finds itself under _WRITER is the writer. This is a dict's
    # setdefault and not a lock because the SIGUSR1 of a soft time limit raises between any two
    # calls: `finally` can tell by identity, without a call, whether there is something to undo.

    def _write(self, answer: float = 0.0) -> bool:
        """Write what waits; False if somebody else is writing.

        With ``answer``, also wait as many seconds for something to happen on the socket.
        """
        writer = self._writer
        done = True
        while done and not self._gone and not self._closed:
            me = object()
            try:
                if writer.setdefault(_WRITER, me) is not me:
                    return False
                done = self._exchange(answer)
            finally:
                if _WRITER in writer and writer[_WRITER] is me:
                    del writer[_WRITER]
            if answer or (self._socket is not None and not self._outbox.waiting):
                break
        if self._gone and not self._told_gone:
            self._told_gone = True
            self._on_gone()
        return True

    def _exchange(self, answer: float) -> bool:
        """Write and read, as the writer; False if the rest must wait."""
        if self._torn:  # what was written when an exception struck is anybody's guess
            self._hang_up()
        self._torn = True
        try:
            done = self._write_all(answer)
            self._unread += 1
            if done and (answer or self._unread >= _READ_EVERY):
                self._read(answer)
        except (OSError, FrameError):
            self._hang_up()
            done = not self._gone and time.monotonic() >= self._try_at
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
            wire.connect(self.address)
        except (OSError, ValueError) as error:
            self._drop_socket()
            self._gone = getattr(error, "errno", None) not in _LATER
            return None
        self._connections += 1
        self._splitter = Splitter(_ANSWER)
        self._rest = None
        self._clogged = False
        self._outbox.connected([self._greeting(), *list(self._announced.values())])
        return wire

    def _greeting(self) -> bytes:
        self._id = self._id or os.urandom(16)
        hello: dict[str, object] = {"v": PROTOCOL, "pid": os.getpid(), "client": self._id}
        with suppress(*_ODD):
            hello = {**self._hello(), **hello}
        return encode(Kind.HELLO, pack(tidy(hello)))

    def _hang_up(self) -> None:
        """Hear the relay's last words, close, and keep what it may not have got."""
        with suppress(OSError, FrameError):
            self._read(0.0)
        self._drop_socket()
        self._rest = None
        self._outbox.lost()

    def _drop_socket(self) -> None:
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
        self._unread = 0
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
                self._heard(kind, payload)
            answer = 0.0

    def _heard(self, kind: Kind, payload: bytes) -> None:
        if kind is Kind.BYE:
            self._bye = True
            return
        number = unpack(payload)
        if not isinstance(number, int):
            raise FrameError(f"{kind.name} without a number")
        if kind is Kind.ACK:
            self._outbox.acked(number)
        elif kind is Kind.FLUSHED:
            self._flushed = max(self._flushed, min(number, self._asked))

    def _ask(self, question: bytes, answered: Callable[[], bool], timeout: float) -> bool:
        """Send a question, on a new connection again, until it is answered or time is over."""
        end = time.monotonic() + timeout
        asked_on = -1
        self._write()
        while not answered() and not self._gone and not self._closed:
            left = end - time.monotonic()
            if left <= 0:
                return False
            if self._socket is not None and asked_on != self._connections:
                asked_on = self._connections
                self._outbox.insist(question)
            self._wait(left)
        return answered()
