"""A process's way to the relay: it never blocks a task and never raises into one.

Spans and facts are written to memory that is shared with the relay (``slot``). What doesn't fit
there, envelopes, and questions go over a socket.

There is no thread and no lock. Whoever sends adds a frame to the outbox and, if nobody else
is at it, writes what is there to a non-blocking socket: so a frame may be sent from any thread,
greenlet, signal handler or finalizer, also in the midst of another one's ``send``.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Final

from taskobs.protocol.frames import FRAME_HEADER, FrameError, FrameKind, encode, pack
from taskobs.protocol.sanitize import UNEXPECTED, sanitize
from taskobs.protocol.shared_memory import SharedMemory
from taskobs.relay_client.connection import Connection
from taskobs.relay_client.outbox import Outbox
from taskobs.relay_client.ring_writer import RUN_METRIC, RingWriter, orphaned_frames

PROTOCOL: Final = 1
_SLICE: Final = 0.02
_STUCK: Final = 5.0
"""Seconds after which a writer that writes nothing is no more."""
_WAITING_RUN_METRICS: Final = 64
"""Facts that may wait for an END."""
_WRITE_TOKEN: Final = "writer"  # noqa: S105  # a key of a dict
_END: Final = int(FrameKind.END)


def _nothing() -> None:
    pass


class RelayClient:
    """Sends frames to the relay; one in each process, which connects at its first frame.

    ``hello`` tells of the process (role, name, resource) and is called for each connection.
    When nobody listens at ``address``, nor ever will again, ``gone`` becomes true and
    ``on_unavailable`` is called once; ``leftover`` returns what the relay may not have got.
    Without ``memory``, everything goes over the socket. The ``heir``, the worker's parent, is also
    given what was told in it by processes that have ended.
    """

    def __init__(
        self,
        address: str,
        hello: Callable[[], dict[str, object]],
        *,
        memory: SharedMemory | None = None,
        is_main_process: bool = False,
        on_unavailable: Callable[[], object] = _nothing,
    ) -> None:
        self.address = address
        self._hello = hello
        self._memory, self._is_main_process = memory, is_main_process
        self._on_unavailable = on_unavailable
        self._announced: dict[bytes, bytes] = {}
        self._reported_unavailable = False
        self._closed = False
        self._begin()

    def _begin(self) -> None:
        self._outbox = Outbox()
        self._connection = Connection(self.address, self._outbox, self._greeting)
        self._writer: dict[str, object] = {}
        self._seen = (0, 0.0)
        self._id = os.urandom(16)
        self._asked = 0
        self._left: dict[int, list[bytes]] = {}
        self._run_metrics: list[bytes] = []
        self._slot: RingWriter | None = None
        # Whoever gets the one permit asks for a slot; the others use the socket until then.
        self._slot_claims = [] if self._memory is None else [self._memory]

    @property
    def unavailable(self) -> bool:
        """Whether nobody listens at the address, nor ever will again."""
        return self._connection.unavailable

    def hello(self) -> dict[str, object]:
        """Return what the relay is told of this process."""
        return self._hello()

    # Sending.

    def send(self, kind: FrameKind, payload: bytes = b"") -> None:
        """Send a frame, now if possible; it is dropped and counted if too much waits."""
        self._queue(kind, payload)
        self._write()

    def send_run_metric(self, payload: bytes, *, soon: bool = True) -> None:
        """Send a FACT; with the next END if it needs not be ``soon``, over the socket with any."""
        slot = self._slot or self._taken()
        if slot is not None:
            if not soon and len(self._run_metrics) < _WAITING_RUN_METRICS:
                self._run_metrics.append(payload)
                return
            if slot.append(RUN_METRIC, payload):
                return
        self._queue(FrameKind.RUN_METRIC, payload)
        if soon:
            self._write()

    def _send_run_metrics(self) -> None:
        """Send the facts that no END has taken along."""
        while (run_metric := self._next_run_metric()) is not None:
            self.send_run_metric(run_metric)

    def _next_run_metric(self) -> bytes | None:
        waiting = self._run_metrics
        try:
            run_metric = waiting[-1]
            del waiting[-1]  # no call is made, so no other thread comes between
        except IndexError:
            return None
        return run_metric

    def started(self, key: bytes, payload: bytes) -> None:
        """Tell of a span that is open; any later relay hears of it too, until the span ends."""
        slot = self._slot or self._taken()
        if slot is not None and slot.opened(key, payload):
            return
        frame = encode(FrameKind.START, payload)
        outbox = self._outbox
        outbox.try_enqueue(frame)
        self._write()
        outbox.opened(key, frame)  # last: a connection made now would have it twice

    def ended(self, key: bytes, payload: bytes) -> None:
        """Tell of a span that has ended, and a fact that waits for it."""
        slot = self._slot or self._taken()
        run_metric = self._next_run_metric() if self._run_metrics else None
        try:
            written = slot is not None and slot.append(_END, payload, run_metric)
        except BaseException:  # a time limit struck
            if run_metric is not None and slot is not None and slot.written is not payload:
                self._run_metrics.append(run_metric)
            raise
        if slot is None or not written:
            if run_metric is not None:
                self._queue(FrameKind.RUN_METRIC, run_metric)
            self._outbox.try_enqueue(encode(FrameKind.END, payload))
            self._closed_span(slot, key)
            self._write()
            return
        if not slot.closed(key):
            self._outbox.closed(key)
        if slot.wake_needed:
            slot.wake_needed = False
            self.send(FrameKind.WAKE)

    def forget(self, key: bytes) -> None:
        """Take back what was told of a span that nobody will ever have, nor end."""
        self._closed_span(self._slot, key)

    def _closed_span(self, slot: RingWriter | None, key: bytes) -> None:
        if slot is None or not slot.closed(key):
            self._outbox.closed(key)

    def _queue(self, kind: FrameKind, payload: bytes) -> None:
        try:
            frame = encode(kind, payload)
        except FrameError:
            self._outbox.dropped += 1
        else:
            self._outbox.try_enqueue(frame)

    def _taken(self) -> RingWriter | None:
        """Return this process's slot, taken at the first call."""
        if not self._slot_claims or self._closed:
            return self._slot
        claims = self._slot_claims
        try:
            claim = claims[-1]
            del claims[-1]  # no call is made until the next `try`: no exception comes between
        except IndexError:  # another thread was faster
            return self._slot
        try:
            self._slot = RingWriter.take(claim, self._introduction())
        except BaseException:  # a time limit struck
            claims.append(claim)
            raise
        return self._slot

    def announce(self, key: bytes, payload: bytes) -> None:
        """Send a SENTRY frame, now and at the start of each later connection."""
        if key not in self._announced:
            connection, before = self._connection, self._connection.connections
            frame = encode(FrameKind.SENTRY, payload)
            if connection.up:
                self._outbox.enqueue(frame)
            self._announced[key] = frame  # after it was sent, as an exception may strike between
            if (
                connection.connections != before
            ):  # another thread's: it may not have begun with this
                self._outbox.enqueue(frame)

    def open(self) -> None:
        """Connect if not connected, hear what the relay has to say, and send what waits.

        Called now and then by a process that sends nothing for long, it finds out that the relay
        was restarted.
        """
        self._send_run_metrics()
        self._connection.read_soon()
        self._write()

    # The end, or a pause.

    def flush(self, timeout: float) -> bool:
        """Wait at most ``timeout`` seconds until all that the relay got, from anybody, is out."""
        self._send_run_metrics()
        self._asked += 1
        number = self._asked

        def flushed() -> bool:
            return number <= self._connection.flushed <= self._asked

        return self._ask(encode(FrameKind.FLUSH, pack(number)), flushed, timeout)

    def settle(self, timeout: float) -> bool:
        """Wait at most ``timeout`` seconds until all is written; False if some is left."""
        end = time.monotonic() + timeout
        self._send_run_metrics()
        self._write()
        while self._has_more() and not self.unavailable and not self._closed:
            left = end - time.monotonic()
            if left <= 0:
                break
            self._wait(left)
        return not self._has_more()

    def _has_more(self) -> bool:
        return bool(self._outbox) or self._connection.cut

    def close_gracefully(self, timeout: float) -> bool:
        """Hand over what waits, within ``timeout`` seconds, and close; False if some is left.

        A process that has sent nothing doesn't connect to say so.
        """
        self._release_slot()
        if not self._outbox and not self._connection.connections:
            self.close()
            return True
        done = self._ask(encode(FrameKind.CLOSE), lambda: self._connection.closed_received, timeout)
        self.close()
        return done

    def close(self) -> None:
        """Hang up; what is not written yet is lost, and so is what is sent from now on."""
        self._closed = True
        self._release_slot()
        self._connection.drop()

    def _release_slot(self) -> None:
        self._send_run_metrics()
        self._slot_claims = []
        slot, self._slot = self._slot, None
        if slot is not None:
            self._connection.unavailable = self._connection.unavailable or slot.unavailable
            if self._connection.unavailable:
                self._keep(slot.unread())
            slot.close()

    def after_fork(self) -> None:
        """In a forked child: be a client of its own, that hasn't connected yet."""
        unavailable, self._is_main_process = self._connection.unavailable, False
        self._connection.drop()
        self._begin()
        self._connection.unavailable = unavailable

    def undelivered(self, kind: FrameKind, prefix: bytes = b"") -> list[bytes]:
        """Return, once, the payloads that a relay that is gone may not have got.

        Those of this kind that begin with ``prefix``; the others are kept for whom they belong to.
        """
        if not self._connection.unavailable:
            return []
        self._keep(self._slot.unread() if self._slot else ())
        if self._is_main_process and self._memory is not None:
            self._keep(orphaned_frames(self._memory))
        for frame in self._outbox.empty():
            self._left.setdefault(frame[FRAME_HEADER.size - 1], []).append(
                frame[FRAME_HEADER.size :]
            )
        left = self._left.pop(int(kind), [])
        others = [payload for payload in left if not payload.startswith(prefix)]
        if others:
            self._left.setdefault(int(kind), []).extend(others)
        return [payload for payload in left if payload.startswith(prefix)]

    def _keep(self, frames: Iterable[tuple[int, bytes]]) -> None:
        for number, payload in frames:
            self._left.setdefault(number, []).append(payload)

    def _wait(self, left: float) -> None:
        """Let something happen, for a slice of the seconds that are left."""
        busy = self._write(min(left, _SLICE)) and self._connection.up
        time.sleep(0.0 if busy else min(left, 0.005))  # greenlets get their turn

    # Writing. One at a time: who finds itself under _WRITE_TOKEN is the writer. This is a dict's
    # setdefault and not a lock because the SIGUSR1 of a soft time limit raises between any two
    # calls: `finally` can tell by identity, without a call, whether there is something to undo.

    def _write(self, answer: float = 0.0) -> bool:
        """Write what waits; False if somebody else is writing.

        With ``answer``, also wait as many seconds for something to happen on the socket.
        """
        writer = self._writer
        done = True
        if self._slot is not None and self._slot.unavailable:
            self._connection.unavailable = True
        while done and not self._connection.unavailable and not self._closed:
            me = object()
            try:
                if writer.setdefault(_WRITE_TOKEN, me) is not me:
                    self._watch()
                    return False
                done = self._connection.exchange(answer)
            finally:
                if _WRITE_TOKEN in writer and writer[_WRITE_TOKEN] is me:
                    del writer[_WRITE_TOKEN]
            if answer or (self._connection.up and not self._outbox.waiting):
                break
        if self._connection.unavailable and not self._reported_unavailable:
            self._reported_unavailable = True
            self._on_unavailable()
        return True

    def _watch(self) -> None:
        """Take the pen from a writer that has not written for long: an exception struck it.

        Only on interpreters that let one strike within ``finally``. Should it live after all, a
        frame may be torn; the relay hangs up on that, and all is sent again.
        """
        writes, since = self._seen
        now = time.monotonic()
        if writes != self._connection.writes or not since:
            self._seen = (self._connection.writes, now)
        elif now - since > _STUCK:
            self._seen = (writes, now)
            self._writer.clear()

    def _ask(self, question: bytes, answered: Callable[[], bool], timeout: float) -> bool:
        """Send a question, on a new connection again, until it is answered or time is over."""
        end = time.monotonic() + timeout
        asked_on = -1
        self._write()
        while not answered() and not self._connection.unavailable and not self._closed:
            left = end - time.monotonic()
            if left <= 0:
                return False
            if self._connection.up and asked_on != self._connection.connections:
                asked_on = self._connection.connections
                self._outbox.enqueue(question)
            self._wait(left)
        return answered()

    def _greeting(self) -> list[bytes]:
        return [encode(FrameKind.HELLO, self._introduction()), *list(self._announced.values())]

    def _introduction(self) -> bytes:
        hello: dict[str, object] = {"v": PROTOCOL, "pid": os.getpid(), "client": self._id}
        with suppress(*UNEXPECTED):
            hello = {**self._hello(), **hello}
        return pack(sanitize(hello))
