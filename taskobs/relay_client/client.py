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

from taskobs.protocol.frames import HEAD, FrameError, Kind, encode, pack
from taskobs.protocol.sanitize import UNEXPECTED, tidy
from taskobs.protocol.shared_memory import SharedMemory
from taskobs.relay_client.connection import Link
from taskobs.relay_client.outbox import Outbox
from taskobs.relay_client.ring_writer import FACT, Slot, bequeathed

PROTOCOL: Final = 1
_SLICE: Final = 0.02
_STUCK: Final = 5.0
"""Seconds after which a writer that writes nothing is no more."""
_FACTS: Final = 64
"""Facts that may wait for an END."""
_WRITER: Final = "writer"
_END: Final = int(Kind.END)


def _nothing() -> None:
    pass


class RelayClient:
    """Sends frames to the relay; one in each process, which connects at its first frame.

    ``hello`` tells of the process (role, name, resource) and is called for each connection.
    When nobody listens at ``address``, nor ever will again, ``gone`` becomes true and
    ``on_gone`` is called once; ``leftover`` returns what the relay may not have got.
    Without ``memory``, everything goes over the socket. The ``heir``, the worker's parent, is also
    given what was told in it by processes that have ended.
    """

    def __init__(
        self,
        address: str,
        hello: Callable[[], dict[str, object]],
        *,
        memory: SharedMemory | None = None,
        heir: bool = False,
        on_gone: Callable[[], object] = _nothing,
    ) -> None:
        self.address = address
        self._hello = hello
        self._memory, self._heir = memory, heir
        self._on_gone = on_gone
        self._announced: dict[bytes, bytes] = {}
        self._told_gone = False
        self._closed = False
        self._begin()

    def _begin(self) -> None:
        self._outbox = Outbox()
        self._link = Link(self.address, self._outbox, self._greeting)
        self._writer: dict[str, object] = {}
        self._seen = (0, 0.0)
        self._id = os.urandom(16)
        self._asked = 0
        self._left: dict[int, list[bytes]] = {}
        self._facts: list[bytes] = []
        self._slot: Slot | None = None
        # Whoever gets the one permit asks for a slot; the others use the socket until then.
        self._permits = [] if self._memory is None else [self._memory]

    @property
    def gone(self) -> bool:
        """Whether nobody listens at the address, nor ever will again."""
        return self._link.gone

    def hello(self) -> dict[str, object]:
        """Return what the relay is told of this process."""
        return self._hello()

    # Sending.

    def send(self, kind: Kind, payload: bytes = b"") -> None:
        """Send a frame, now if possible; it is dropped and counted if too much waits."""
        self._queue(kind, payload)
        self._write()

    def fact(self, payload: bytes, *, soon: bool = True) -> None:
        """Send a FACT; with the next END if it needs not be ``soon``, over the socket with any."""
        slot = self._slot or self._taken()
        if slot is not None:
            if not soon and len(self._facts) < _FACTS:
                self._facts.append(payload)
                return
            if slot.append(FACT, payload):
                return
        self._queue(Kind.FACT, payload)
        if soon:
            self._write()

    def _tell_facts(self) -> None:
        """Send the facts that no END has taken along."""
        while (fact := self._next_fact()) is not None:
            self.fact(fact)

    def _next_fact(self) -> bytes | None:
        facts = self._facts
        try:
            fact = facts[-1]
            del facts[-1]  # no call is made, so no other thread comes between
        except IndexError:
            return None
        return fact

    def started(self, key: bytes, payload: bytes) -> None:
        """Tell of a span that is open; any later relay hears of it too, until the span ends."""
        slot = self._slot or self._taken()
        if slot is not None and slot.opened(key, payload):
            return
        frame = encode(Kind.START, payload)
        outbox = self._outbox
        outbox.offer(frame)
        self._write()
        outbox.opened(key, frame)  # last: a connection made now would have it twice

    def ended(self, key: bytes, payload: bytes) -> None:
        """Tell of a span that has ended, and a fact that waits for it."""
        slot = self._slot or self._taken()
        fact = self._next_fact() if self._facts else None
        try:
            written = slot is not None and slot.append(_END, payload, fact)
        except BaseException:  # a time limit struck
            if fact is not None and slot is not None and slot.written is not payload:
                self._facts.append(fact)
            raise
        if slot is None or not written:
            if fact is not None:
                self._queue(Kind.FACT, fact)
            self._outbox.offer(encode(Kind.END, payload))
            self._closed_span(slot, key)
            self._write()
            return
        if not slot.closed(key):
            self._outbox.closed(key)
        if slot.pressing:
            slot.pressing = False
            self.send(Kind.LOOK)

    def forget(self, key: bytes) -> None:
        """Take back what was told of a span that nobody will ever have, nor end."""
        self._closed_span(self._slot, key)

    def _closed_span(self, slot: Slot | None, key: bytes) -> None:
        if slot is None or not slot.closed(key):
            self._outbox.closed(key)

    def _queue(self, kind: Kind, payload: bytes) -> None:
        try:
            frame = encode(kind, payload)
        except FrameError:
            self._outbox.dropped += 1
        else:
            self._outbox.offer(frame)

    def _taken(self) -> Slot | None:
        """Return this process's slot, taken at the first call."""
        if not self._permits or self._closed:
            return self._slot
        permits = self._permits
        try:
            permit = permits[-1]
            del permits[-1]  # no call is made until the next `try`: no exception comes between
        except IndexError:  # another thread was faster
            return self._slot
        try:
            self._slot = Slot.take(permit, self._introduction())
        except BaseException:  # a time limit struck
            permits.append(permit)
            raise
        return self._slot

    def announce(self, key: bytes, payload: bytes) -> None:
        """Send a SENTRY frame, now and at the start of each later connection."""
        if key not in self._announced:
            link, before = self._link, self._link.connections
            frame = encode(Kind.SENTRY, payload)
            if link.up:
                self._outbox.insist(frame)
            self._announced[key] = frame  # after it was sent, as an exception may strike between
            if link.connections != before:  # another thread's: it may not have begun with this
                self._outbox.insist(frame)

    def open(self) -> None:
        """Connect if not connected, hear what the relay has to say, and send what waits.

        Called now and then by a process that sends nothing for long, it finds out that the relay
        was restarted.
        """
        self._tell_facts()
        self._link.read_soon()
        self._write()

    # The end, or a pause.

    def flush(self, timeout: float) -> bool:
        """Wait at most ``timeout`` seconds until all that the relay got, from anybody, is out."""
        self._tell_facts()
        self._asked += 1
        number = self._asked

        def flushed() -> bool:
            return number <= self._link.flushed <= self._asked

        return self._ask(encode(Kind.FLUSH, pack(number)), flushed, timeout)

    def settle(self, timeout: float) -> bool:
        """Wait at most ``timeout`` seconds until all is written; False if some is left."""
        end = time.monotonic() + timeout
        self._tell_facts()
        self._write()
        while self._has_more() and not self.gone and not self._closed:
            left = end - time.monotonic()
            if left <= 0:
                break
            self._wait(left)
        return not self._has_more()

    def _has_more(self) -> bool:
        return bool(self._outbox) or self._link.cut

    def goodbye(self, timeout: float) -> bool:
        """Hand over what waits, within ``timeout`` seconds, and close; False if some is left.

        A process that has sent nothing doesn't connect to say so.
        """
        self._leave_slot()
        if not self._outbox and not self._link.connections:
            self.close()
            return True
        done = self._ask(encode(Kind.GOODBYE), lambda: self._link.bye, timeout)
        self.close()
        return done

    def close(self) -> None:
        """Hang up; what is not written yet is lost, and so is what is sent from now on."""
        self._closed = True
        self._leave_slot()
        self._link.drop()

    def _leave_slot(self) -> None:
        self._tell_facts()
        self._permits = []
        slot, self._slot = self._slot, None
        if slot is not None:
            self._link.gone = self._link.gone or slot.gone
            if self._link.gone:
                self._keep(slot.unread())
            slot.close()

    def after_fork(self) -> None:
        """In a forked child: be a client of its own, that hasn't connected yet."""
        gone, self._heir = self._link.gone, False
        self._link.drop()
        self._begin()
        self._link.gone = gone

    def leftover(self, kind: Kind, prefix: bytes = b"") -> list[bytes]:
        """Return, once, the payloads that a relay that is gone may not have got.

        Those of this kind that begin with ``prefix``; the others are kept for whom they belong to.
        """
        if not self._link.gone:
            return []
        self._keep(self._slot.unread() if self._slot else ())
        if self._heir and self._memory is not None:
            self._keep(bequeathed(self._memory))
        for frame in self._outbox.empty():
            self._left.setdefault(frame[HEAD.size - 1], []).append(frame[HEAD.size :])
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
        busy = self._write(min(left, _SLICE)) and self._link.up
        time.sleep(0.0 if busy else min(left, 0.005))  # greenlets get their turn

    # Writing. One at a time: who finds itself under _WRITER is the writer. This is a dict's
    # setdefault and not a lock because the SIGUSR1 of a soft time limit raises between any two
    # calls: `finally` can tell by identity, without a call, whether there is something to undo.

    def _write(self, answer: float = 0.0) -> bool:
        """Write what waits; False if somebody else is writing.

        With ``answer``, also wait as many seconds for something to happen on the socket.
        """
        writer = self._writer
        done = True
        if self._slot is not None and self._slot.gone:
            self._link.gone = True
        while done and not self._link.gone and not self._closed:
            me = object()
            try:
                if writer.setdefault(_WRITER, me) is not me:
                    self._watch()
                    return False
                done = self._link.exchange(answer)
            finally:
                if _WRITER in writer and writer[_WRITER] is me:
                    del writer[_WRITER]
            if answer or (self._link.up and not self._outbox.waiting):
                break
        if self._link.gone and not self._told_gone:
            self._told_gone = True
            self._on_gone()
        return True

    def _watch(self) -> None:
        """Take the pen from a writer that has not written for long: an exception struck it.

        Only on interpreters that let one strike within ``finally``. Should it live after all, a
        frame may be torn; the relay hangs up on that, and all is sent again.
        """
        writes, since = self._seen
        now = time.monotonic()
        if writes != self._link.writes or not since:
            self._seen = (self._link.writes, now)
        elif now - since > _STUCK:
            self._seen = (writes, now)
            self._writer.clear()

    def _ask(self, question: bytes, answered: Callable[[], bool], timeout: float) -> bool:
        """Send a question, on a new connection again, until it is answered or time is over."""
        end = time.monotonic() + timeout
        asked_on = -1
        self._write()
        while not answered() and not self._link.gone and not self._closed:
            left = end - time.monotonic()
            if left <= 0:
                return False
            if self._link.up and asked_on != self._link.connections:
                asked_on = self._link.connections
                self._outbox.insist(question)
            self._wait(left)
        return answered()

    def _greeting(self) -> list[bytes]:
        return [encode(Kind.HELLO, self._introduction()), *list(self._announced.values())]

    def _introduction(self) -> bytes:
        hello: dict[str, object] = {"v": PROTOCOL, "pid": os.getpid(), "client": self._id}
        with suppress(*UNEXPECTED):
            hello = {**self._hello(), **hello}
        return pack(tidy(hello))
