"""The relay's event loop: read sockets and slots, commit what came, reply, and shut down."""

from __future__ import annotations

import logging
import os
import selectors
import socket
import time
from collections.abc import Callable, Iterable
from typing import Final

from taskobs.relay.agent.connection import Connection, HangUpError, peer, settle
from taskobs.relay.agent.control import ControlSocket
from taskobs.relay.agent.ring_reader import RingReaders
from taskobs.relay.agent.router import FrameRouter
from taskobs.relay.agent.shutdown import ShutdownPolicy, Worker
from taskobs.relay.agent.wakeup_pipe import WakeupPipe
from taskobs.relay.counters import Counters
from taskobs.relay.storage.base import Store
from taskobs.relay.tracking.open_spans import Closed, OpenSpanRegistry

_log: Final = logging.getLogger("taskobs.relay")
TICK: Final = 0.25
"""Poll interval, in seconds, for state that no socket event announces."""
GATHER: Final = 0.005
"""Pause, in seconds, after a turn that received something, so that the next one receives more.

Many frames then share one commit of the spool and one ACK. A socket's buffer holds more than
arrives in that time.
"""
FLUSH_INTERVAL: Final = 1.0
"""Interval, in seconds, for flushing what is left during shutdown."""
CONNECTIONS: Final = 1_024
HELD: Final = 16 * 1024 * 1024
"""Bytes that all connections together may take, mostly in incomplete frames."""
_AT_ONCE: Final = 64
_READS: Final = 64
"""Reads of one connection in a row: together more than a socket's buffers hold."""


class EventLoop:
    """Serves the processes of one worker until it has ended and all is sent or dropped.

    Not thread-safe but for ``terminate``.
    """

    def __init__(  # noqa: PLR0913  # it holds the parts together
        self,
        listener: socket.socket,
        *,
        worker: Worker,
        router: FrameRouter,
        slots: RingReaders,
        open_spans: OpenSpanRegistry,
        store: Store,
        counters: Counters,
        wakeup_pipe: WakeupPipe,
        shutdown: ShutdownPolicy,
        control: ControlSocket | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._listener, self._worker = listener, worker
        self._router, self._slots = router, slots
        self._open_spans, self._store = open_spans, store
        self._counters, self._wakeup_pipe, self._shutdown = counters, wakeup_pipe, shutdown
        self._control, self._clock = control, clock
        self._connections: dict[Connection, None] = {}
        self._touched: dict[Connection, None] = {}
        """Connections that received something in this turn, and may need a reply."""
        self._listening = False
        self._accepted = 0
        self._due = self._flush_at = 0.0
        self._selector = selectors.DefaultSelector()
        self._selector.register(wakeup_pipe.reader, selectors.EVENT_READ, self._on_wakeup)
        listener.settimeout(0)

    @property
    def connections(self) -> int:
        """How many clients are connected."""
        return len(self._connections)

    def terminate(self) -> None:
        """Shut down when the worker ends, or, when called twice, at once. For signal handlers."""
        self._shutdown.terminate(self._clock())
        self._due = 0.0
        # ``select`` continues after a signal's handler (PEP 475), so it needs an event.
        self._wakeup_pipe.wake()

    def run(self) -> int:
        """Serve; return how many items are left unsent at the end."""
        try:
            while not self._turn():
                pass
        finally:
            self.close()
        return self._router.routes.pending

    def close(self) -> None:
        """Close all connections and the listener."""
        for connection in list(self._connections):
            self._end(connection)
        self._selector.close()
        self._listener.close()

    def _turn(self) -> bool:
        """Read, commit and reply once; return whether this was the last turn."""
        if self._touched:
            time.sleep(GATHER)
            self._touched.clear()
        timeout = max(0.0, min(TICK, self._due - self._clock()))
        for key, mask in self._selector.select(timeout):
            key.data(mask)
        if self._router.wake_requested:
            self._router.wake_requested = False
            for connection in list(self._connections):
                self._read(connection)
            self._slots.read()
        now = self._clock()
        lost = self._tick(now) if now >= self._due else []
        # Committed first, then acknowledged: a client forgets what was acknowledged.
        self._router.commit(lost)
        self._touched.update(self._router.acknowledged)
        self._router.acknowledged.clear()
        self._slots.acknowledge()
        self._answer()
        return self._shutdown.shutting_down and self._drained(now)

    def _drained(self, now: float) -> bool:
        """Return whether to end; flush the stores now and every second."""
        if now >= self._flush_at:
            self._flush_at = now + FLUSH_INTERVAL
            self._router.routes.flush()
        return self._shutdown.finished(now, self._router.routes.pending)

    # Every tick.

    def _tick(self, now: float) -> list[Closed]:
        """Check what no socket event announces; return the spans that are lost."""
        self._due = now + TICK
        self._listen()
        for connection in list(self._connections):
            if connection.overdue(now):
                # This process may have been suspended: the data may be in the socket's buffer.
                self._read_to_end(connection)
                if detail := connection.overdue(now):
                    self._hang_up(connection, HangUpError("too slow", detail))
        self._bound_held()
        self._on_wakeup(0)  # a store that has sent items without a source wakes nobody
        self._slots.read()
        self._slots.check()
        self._router.routes.check()
        ended = self._open_spans.main_process_ended = self._worker.ended
        if starts := self._store.inherited():
            self._open_spans.restore(starts, ())
        self._shutdown.update(
            now,
            worker_ended=ended,
            connected=bool(self._connections) or self._slots.live,
            waiting=self._open_spans.waiting,
        )
        if self._open_spans.waiting:  # the ENDs of lost spans may have been sent, and be unread
            self._read_all()
        return self._open_spans.lost(final=self._shutdown.shutting_down)

    def _read_all(self) -> None:
        """Read what processes wrote before they died, also over connections in the backlog."""
        accepted = -1
        while self._listening and accepted != self._accepted:
            accepted = self._accepted
            self._accept(selectors.EVENT_READ)
        for connection in list(self._connections):
            self._read_to_end(connection)

    def _read_to_end(self, connection: Connection) -> None:
        """Read until nothing is left in the socket."""
        for _ in range(_READS):
            received = connection.received
            self._read(connection)
            if connection.closed or received == connection.received:
                return

    def _bound_held(self) -> None:
        while (largest := _too_large(self._connections)) is not None:
            detail = f"{largest.weight} bytes"
            self._hang_up(largest, HangUpError("too much is kept for it", detail))

    # Sockets.

    def _listen(self) -> None:
        other = self._control.listener() if self._control is not None else None
        if other is not None:  # the launcher bound it, as the file of the current one was removed
            self._accept(0)  # its backlog, as closing a listener resets those that wait there
            if self._listening:
                self._selector.unregister(self._listener)
            self._listener.close()
            self._listener, self._listening = other, False
        if not self._listening:
            self._selector.register(self._listener, selectors.EVENT_READ, self._accept)
            self._listening = True

    def _accept(self, _mask: int) -> None:
        for _ in range(_AT_ONCE):
            try:
                sock, _address = self._listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionError):
                return
            except OSError as error:  # no descriptors: still readable, so the loop would spin
                self._counters.dropped("connection", 1, "cannot be accepted", str(error))
                self._selector.unregister(self._listener)
                self._listening = False  # until the next tick
                return
            self._welcome(sock)

    def _welcome(self, sock: socket.socket) -> None:
        if reason := _refusal(sock, len(self._connections)):
            self._counters.dropped("connection", 1, reason, f"user {peer(sock)[1]}")
            sock.close()
            return
        self._accepted += 1
        connection = Connection(sock, self._clock())
        self._connections[connection] = None

        def ready(mask: int) -> None:
            if mask & selectors.EVENT_READ:
                self._read(connection)
            if mask & selectors.EVENT_WRITE and not connection.closed:
                connection.write()
                self._touched[connection] = None

        self._selector.register(sock, selectors.EVENT_READ, ready)

    def _read(self, connection: Connection) -> None:
        now = self._clock()
        try:
            for kind, payload in connection.receive(now):
                self._touched[connection] = None
                self._router.frame(connection, kind, payload, now)
        except HangUpError as error:
            self._hang_up(connection, error)
        except Exception as error:  # noqa: BLE001  # one client's fault is not the others'
            _log.exception("taskobs relay: handling a frame failed")
            self._hang_up(connection, HangUpError("not understood", repr(error)))
        self._note_parent(connection)

    def _note_parent(self, connection: Connection) -> None:
        process = connection.process
        if process is not None and process.pid == self._worker.pid:
            self._worker.closed_cleanly = process.closed_cleanly
        if connection.closed or connection.closing:
            self._due = 0.0  # its process may have ended: checked now, not at the next tick
            self._slots.flush()

    def _on_wakeup(self, _mask: int) -> None:
        settled = settle(self._wakeup_pipe.empty())
        flushing = [one for one in self._connections if one.flushes]
        self._touched.update(dict.fromkeys([*settled, *flushing]))

    def _answer(self) -> None:
        for connection in list(self._touched):
            if connection.closed:
                continue
            try:
                self._router.result(connection)
            except HangUpError as error:
                self._hang_up(connection, error)
                continue
            # Only if replies are unsent: a socket is nearly always writable.
            wanted = selectors.EVENT_READ
            if connection.writing:
                wanted |= selectors.EVENT_WRITE
            key = self._selector.get_key(connection.socket)
            if key.events != wanted:
                self._selector.modify(connection.socket, wanted, key.data)

    # Ends of connections.

    def _hang_up(self, connection: Connection, error: HangUpError) -> None:
        if connection.closed:
            return
        if error.reason:
            detail = f"pid {connection.pid}: {error.detail}"
            self._counters.dropped("connection", 1, error.reason, detail)
        self._end(connection)

    def _end(self, connection: Connection) -> None:
        self._connections.pop(connection, None)
        self._selector.unregister(connection.socket)  # first: a closed one has no descriptor
        connection.close()
        if connection.process is not None:
            self._open_spans.left(connection.process)


def _refusal(sock: socket.socket, connections: int) -> str:
    """Return why a connection is refused; empty if it isn't."""
    if peer(sock)[1] not in {-1, os.geteuid()}:
        return "another user's"
    return "too many" if connections >= CONNECTIONS else ""


def _too_large(connections: Iterable[Connection]) -> Connection | None:
    """Return the connection that takes the most memory, if all together take too much."""
    weights = {connection: connection.weight for connection in connections}
    return max(weights, key=weights.__getitem__) if sum(weights.values()) > HELD else None
