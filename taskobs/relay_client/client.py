"""The client of the relay in each process: it never blocks a task and never raises into one.

What a process records is written into its slot of the memory that it shares with the relay, and
is safe there even if the process is killed the moment after. The socket serves to wake the relay
and to ask it questions; it also takes the frames of a process that has no slot.

There is no lock, as a soft time limit's signal may raise between any two calls. So anything may
be sent from any thread, greenlet, signal handler or finalizer.
"""

from __future__ import annotations

from collections.abc import Callable
from operator import attrgetter
from typing import Final, cast

from taskobs.internal import forksafe
from taskobs.internal.forksafe import ForkStep
from taskobs.protocol.frames import (
    NUMBERED,
    FrameKind,
    encode,
    pack,
)
from taskobs.protocol.shared_memory import SharedMemory
from taskobs.relay_client.channel import SocketChannel
from taskobs.relay_client.idle_writer import IdleWriter
from taskobs.relay_client.introduction import Introduction
from taskobs.relay_client.ring_writer import RingWriter, orphaned_frames
from taskobs.relay_client.undelivered import Undelivered

_END: Final = int(FrameKind.END)
_START: Final = int(FrameKind.START)


class RelayClient:
    """Sends frames to the relay: one in each process.

    ``hello`` returns what describes the process (role, name, resource); it is called for the slot
    and for each connection. Without ``memory``, everything goes over the socket. When the relay
    has been given up, ``unavailable`` becomes true, and ``undelivered`` returns what it may not
    have read: in the main process (``is_main_process``) also what dead processes left behind.
    ``idle_thread`` lets a process without a slot write on while it is idle; see ``IdleWriter``.
    """

    def __init__(
        self,
        address: str,
        hello: Callable[[], dict[str, object]],
        *,
        memory: SharedMemory | None = None,
        is_main_process: bool = False,
        idle_thread: bool = True,
    ) -> None:
        self.address = address
        self._memory, self._is_main_process = memory, is_main_process
        self._idle_thread = idle_thread
        self._introduction = Introduction(hello)
        self._begin()
        forksafe.add(self, ForkStep.EXPORT)

    def _begin(self) -> None:
        self._channel = SocketChannel(self.address, self._introduction.greeting, self._memory)
        self._idle_writer = IdleWriter(self._channel.poll, self._channel.settled)
        self._asked = 0
        self._undelivered = Undelivered()
        self._slot: RingWriter | None = None
        # Whoever gets the one claim takes a slot; other threads use the socket until then.
        self._slot_claims = [] if self._memory is None else [self._memory]

    # Asked several times for each span: a getter in C takes a third of the time of a function.
    unavailable = cast("bool", property(attrgetter("_channel.connection.unavailable")))
    """Whether the relay has been given up: this process sends its telemetry itself."""

    @property
    def closed(self) -> bool:
        """Whether it was closed: what is sent since then is lost."""
        return self._channel.closed

    @property
    def waiting(self) -> int:
        """How many frames are not written to the socket."""
        return len(self._channel.outbox)

    def hello(self) -> dict[str, object]:
        """Return what describes this process to the relay."""
        return self._introduction.hello()

    def announce(self, destination: bytes, *, now: bool = False) -> None:
        """Tell the relay the destination of a Sentry client, or of exporters: it sends to no other.

        ``now``: before all that is sent from here on, which does not say where it goes.
        """
        if self._introduction.announce(destination):
            slot, packed = self._slot or self._taken(), self._introduction.destinations
            if not (slot is not None and slot.announce(packed)) and now:
                self.send(FrameKind.DESTINATIONS, packed)

    def count_with(self, metrics: Callable[[], list[bytes]] | None) -> None:
        """Begin each connection with the METRICS payloads that ``metrics`` returns."""
        self._introduction.metrics = metrics

    def send_metrics(self, *, last: bool = False) -> None:
        """Send METRICS frames; such as are not the ``last`` only if the relay is not behind."""
        metrics, channel = self._introduction.metrics, self._channel
        if metrics is not None and (last or (channel.connection.up and not channel.has_more)):
            for payload in metrics():
                self.send(FrameKind.METRICS, payload)

    # Sending.

    def send(self, kind: FrameKind, payload: bytes = b"") -> None:
        """Send a frame, now if possible; without room, it is dropped and counted."""
        if kind in NUMBERED:
            slot = self._slot or self._taken()
            if slot is not None and slot.append(kind, payload):
                self._wake_if_needed(slot)
                return
        self._channel.queue(kind, payload)
        self._write()

    def started(self, key: bytes, payload: bytes) -> None:
        """Report a span that is open, so that the relay ends it should this process die."""
        slot = self._slot or self._taken()
        if slot is not None and (slot.opened(key, payload) or slot.append(_START, payload)):
            return
        frame = encode(FrameKind.START, payload)
        outbox = self._channel.outbox
        outbox.try_enqueue(frame)
        self._write()
        # Last: a connection made by the write above sends all that is noted as open, and would
        # send this one twice.
        outbox.opened(key, frame)

    def ended(self, key: bytes, payload: bytes) -> None:
        """Report a span that has ended."""
        slot = self._slot or self._taken()
        if slot is None or not slot.append(_END, payload):
            self._channel.outbox.try_enqueue(encode(FrameKind.END, payload))
            self._closed_span(slot, key)
            self._write()
            return
        if not slot.closed(key):
            self._channel.outbox.closed(key)
        if slot.wake_needed:
            self._wake_if_needed(slot)

    def forget(self, key: bytes) -> None:
        """Withdraw the report of a span that was never handed out, so will never end."""
        self._closed_span(self._slot, key)

    def _closed_span(self, slot: RingWriter | None, key: bytes) -> None:
        if slot is None or not slot.closed(key):
            self._channel.outbox.closed(key)

    def _wake_if_needed(self, slot: RingWriter) -> None:
        if slot.wake_needed:
            slot.wake_needed = False
            if not self._channel.has_more:  # else a WAKE waits there, and the relay doesn't read
                self.send(FrameKind.WAKE)

    def _taken(self) -> RingWriter | None:
        """Return this process's slot, which the first call takes."""
        if not self._slot_claims or self._channel.closed:
            return self._slot
        claims = self._slot_claims
        try:
            claim = claims[-1]
            del claims[-1]  # no call until the next ``try``, so no signal's exception in between
        except IndexError:  # another thread was faster
            return self._slot
        try:
            hello = self._introduction
            self._slot = RingWriter.take(claim, hello.packed(), hello.destinations)
        except BaseException:  # a time limit's signal
            claims.append(claim)
            raise
        return self._slot

    def _write(self) -> None:
        if self._slot is not None and self._slot.unavailable:
            self._channel.connection.unavailable = True
        self._channel.write()
        if self._idle_thread and self._slot is None:
            self._idle_writer.start()

    def open(self) -> None:
        """Connect if not connected, read what the relay has sent, and write what waits.

        The main process calls it every second, so it notices that the relay was restarted, and
        sends again what the killed one may not have saved.
        """
        self._channel.connection.read_soon()
        self._write()

    # Waiting, and the end.

    def flush(self, timeout: float, route: bytes = b"") -> bool:
        """Wait at most ``timeout`` seconds until the relay has sent all that it has.

        With a ``route``, all that it has for the destinations of that one.
        """
        self._write()
        self._asked += 1
        number, connection = self._asked, self._channel.connection

        def flushed() -> bool:
            return number <= connection.flushed <= self._asked

        payload = pack([number, route] if route else number)
        return self._channel.ask(encode(FrameKind.FLUSH, payload), flushed, timeout)

    def settle(self, timeout: float) -> bool:
        """Wait at most ``timeout`` seconds until all is written; False if some is left."""
        return self._channel.settle(timeout)

    def close_gracefully(self, timeout: float) -> bool:
        """Hand over what waits, within ``timeout`` seconds, and close; False if some is left.

        A process that has not connected yet, and has nothing to send, does not connect for this.
        """
        self._release_slot()
        channel = self._channel
        if not channel.outbox and not channel.connection.connections:
            self.close()
            return True
        done = channel.ask(
            encode(FrameKind.CLOSE), lambda: channel.connection.closed_received, timeout
        )
        self.close()
        return done

    def close(self) -> None:
        """Close at once; what is not written yet, or sent later, is lost."""
        forksafe.remove(self)
        self._channel.closed = True
        self._release_slot()
        self._channel.close()

    def _release_slot(self) -> None:
        self._slot_claims = []
        slot, self._slot = self._slot, None
        if slot is not None:
            connection, memory = self._channel.connection, self._memory
            connection.unavailable = (
                connection.unavailable
                or slot.unavailable
                or (memory is not None and memory.abandoned)
            )
            if connection.unavailable:
                self._undelivered.add(slot.unread())
            slot.close()

    def after_fork(self) -> None:
        """In a forked child: begin as a new client that has not connected yet."""
        unavailable, self._is_main_process = self.unavailable, False
        # Closed for good: under gevent the idle writer is a greenlet, which a fork copies, and it
        # would send the parent's frames once more from here.
        self._channel.close()
        self._introduction.renew()
        self._begin()
        self._channel.connection.unavailable = unavailable

    def undelivered(self, kind: FrameKind, prefix: bytes = b"") -> list[bytes]:
        """Return, once, the payloads of a kind that an unavailable relay may not have read.

        Only those that begin with ``prefix``; the others are kept for a later call.
        """
        if not self.unavailable:
            return []
        left = self._undelivered
        if self._slot is not None:
            left.add(self._slot.unread())
        if self._is_main_process and self._memory is not None:
            left.add(orphaned_frames(self._memory))
        left.add_encoded(self._channel.outbox.empty())
        return left.take(int(kind), prefix)
