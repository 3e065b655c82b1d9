"""Routes each frame to the open-span registry, the store and the counters, and replies to it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

from taskobs.protocol import frames
from taskobs.protocol.frames import KEY_BYTES, FrameError, FrameKind
from taskobs.protocol.held_spans.marks import mark_of
from taskobs.protocol.held_spans.rules import KEEP_NOTHING, KeepRules
from taskobs.relay.agent.connection import (
    MAX_FLUSHES,
    NO_FRAMES,
    Connection,
    HangUpError,
    settle,
)
from taskobs.relay.agent.envelope_frames import EnvelopeFrames
from taskobs.relay.agent.frame_counts import ReceivedFrames, count_dropped
from taskobs.relay.agent.hello import parse, parse_destinations
from taskobs.relay.agent.lanes import Lanes, Mark
from taskobs.relay.agent.payloads import (
    MAX_SMALL,
    dropped_in,
    flush_in,
    key_of_span,
    small,
    split_span,
    wrong,
)
from taskobs.relay.agent.route_table import RouteTable
from taskobs.relay.counters import DUPLICATE, Counters
from taskobs.relay.storage.base import Store
from taskobs.relay.storage.items import Item
from taskobs.relay.tracking.acknowledgements import Source
from taskobs.relay.tracking.ended_spans import EndedSpans
from taskobs.relay.tracking.open_spans import Closed, OpenSpanRegistry
from taskobs.relay.tracking.process_state import ProcessState
from taskobs.relay.tracking.recent_keys import RecentKeys

MAX_TURN: Final = 1024 * 1024
"""Bytes of spans and envelopes that are held before they are written to the store."""
EVENT_IDS: Final = 10_000
WORKER_ROLE: Final = "worker"
"""The role of a worker's main process in its HELLO."""


def _ignore(_: bytes) -> None: ...


class FrameRouter:
    """Takes frames of all connections and slots; ``commit`` hands their contents to the store.

    ``on_metrics`` is called with each METRICS payload of the main process; ``status`` returns the
    reply to STATUS. Not thread-safe.
    """

    def __init__(  # noqa: PLR0913  # what it reads goes to all of these
        self,
        *,
        store: Store,
        open_spans: OpenSpanRegistry,
        counters: Counters,
        status: Callable[[], object],
        on_metrics: Callable[[bytes], object] = _ignore,
        routes: RouteTable | None = None,
        keep: KeepRules = KEEP_NOTHING,
    ) -> None:
        self._store, self._open_spans, self._counters = store, open_spans, counters
        self._on_metrics, self._status = on_metrics, status
        self._size = 0
        self._event_ids = RecentKeys(EVENT_IDS)
        self._envelope_frames = EnvelopeFrames()
        self.routes = routes or RouteTable(Lanes(store, counters, lambda _: store), counters)
        self._ended = EndedSpans(self.routes.put, open_spans.change_log, counters, keep)
        self._received = ReceivedFrames(counters)
        self.acknowledged: dict[Connection, None] = {}
        """Connections whose frames were settled by ``commit``; the event loop clears it."""
        self.wake_requested = False
        """A client asked to have its slot read now; the event loop resets it."""

    def frame(self, connection: Connection, kind: FrameKind, payload: bytes, now: float) -> None:
        """Handle a frame of a connection.

        Raises:
            HangUpError: it is malformed, or not allowed at this point.
        """
        self._received.bytes += len(payload) + frames.FRAME_HEADER.size
        try:
            if kind is FrameKind.STATUS:
                self._received.count()
                connection.send(FrameKind.STATUS_REPLY, frames.pack(self._status()))
            elif connection.process is None:
                self._hello(connection, kind, payload, now)
            else:
                self._of(connection, connection.process, kind, payload)
        except FrameError as error:
            raise HangUpError(NO_FRAMES, f"{kind.name}: {error}") from error

    def written(self, source: Source, process: ProcessState, kind: int, payload: bytes) -> None:
        """Handle a frame from a process's slot.

        Raises:
            FrameError: it is malformed, or of a kind that isn't written there.
        """
        self._received.bytes += len(payload)
        self._received.kinds[kind] += 1
        if kind == FrameKind.START:
            self._start(source, process, payload)
        elif not self._numbered(source, process, kind, payload):
            wrong(f"kind {kind} in a slot")

    def _numbered(self, source: Source, process: ProcessState, kind: int, payload: bytes) -> bool:
        """Take a frame of a numbered kind; False if it is of another one."""
        if kind == FrameKind.END:
            self._end(source, process, payload)
        elif kind == FrameKind.ENVELOPE:
            self._envelope(source, payload)
        elif kind == FrameKind.LOG:
            self.routes.put_log(small(payload), process.resource_blob, source)
        elif kind == FrameKind.FORGET:
            self._open_spans.ended(key_of_span(payload))
            self._ended.forget(payload)
            source.arrived(settled=True)
        else:
            return False
        return True

    def _of(
        self, connection: Connection, process: ProcessState, kind: FrameKind, payload: bytes
    ) -> None:
        self._received.kinds[kind] += 1
        if self._numbered(connection, process, kind, payload):
            return
        match kind:
            case FrameKind.START:
                self._open_spans.started(process, *split_span(payload))
            case FrameKind.DROPPED:
                count_dropped(self._counters, process, dropped_in(payload))
            case FrameKind.DESTINATIONS:
                self.announced(payload)
            case FrameKind.METRICS if process.role == WORKER_ROLE:
                self._on_metrics(payload)
            case FrameKind.FLUSH | FrameKind.WAKE:
                self._on_wake(connection, kind, payload)
            case FrameKind.CLOSE:
                process.closed_cleanly = True
                connection.note_close()
            case _:
                wrong("not what a client sends now")

    # One kind each.

    def _hello(self, connection: Connection, kind: FrameKind, payload: bytes, now: float) -> None:
        if kind is not FrameKind.HELLO:
            wrong("comes before HELLO")
        connection.introduced(self.joined(payload, connection.pid), now)

    def joined(self, hello: bytes, sender: int, started: int = 0) -> ProcessState:
        """Register the process that sent a HELLO; ``sender`` is its pid from the kernel, or -1.

        Raises:
            FrameError: it isn't the HELLO of this release.
        """
        given = parse(hello, MAX_SMALL)
        # The kernel's pid first: in a container, a process may name another id than it has here.
        process = self._open_spans.joined(
            given.client, sender if sender > 0 else given.pid, given.resource_blob, started
        )
        process.role, process.name = given.role, given.name
        self._announce(given.destinations)
        return process

    def announced(self, packed: bytes) -> None:
        """Take the packed list of destinations of a process's Sentry clients and exporters.

        Raises:
            FrameError: it isn't what this release writes.
        """
        self._announce(parse_destinations(frames.unpack(packed, MAX_SMALL)))

    def _announce(self, found: Iterable[bytes]) -> None:
        of_sentry = [one for one in found if not self.routes.announce(one)]
        self._envelope_frames.announce(of_sentry, self._store)

    def _end(self, source: Source, process: ProcessState, payload: bytes) -> None:
        key, packed = split_span(payload)
        if self._open_spans.ended(key, noted=mark_of(packed) is None):
            self._ended.put(process, key, packed, source)
            self._note_size(packed)
        else:  # a duplicate is acknowledged, too: the client numbers every frame that it sends
            source.arrived(settled=True)

    def _start(self, source: Source, process: ProcessState, payload: bytes) -> None:
        """Take an open span that had no room in its process's table.

        Its frame stays in the ring until the span has ended, for a relay that takes over.
        """
        key, packed = split_span(payload)
        number = source.arrived(settled=False)
        if not self._open_spans.started(process, key, packed, (source, number)):
            source.settle(number)

    def _envelope(self, source: Source, payload: bytes) -> None:
        destination, event_id, envelope = self._envelope_frames.read(payload)
        if event_id in self._event_ids:
            self._counters.add(DUPLICATE, "envelope")
            source.arrived(settled=True)
            return
        if event_id:
            self._event_ids.add(event_id)
            # Stored with the keys of ended spans, so that the next relay knows a duplicate, too.
            self._open_spans.change_log.ended(event_id)
        self._envelope_frames.announce([destination], self._store)
        arrived = source, source.arrived(settled=False)
        self._ended.add(Item("envelope", envelope, destination, arrived))
        self._note_size(envelope)

    def _on_wake(self, connection: Connection, kind: FrameKind, payload: bytes) -> None:
        self.wake_requested = True
        if kind is FrameKind.FLUSH:
            connection.flushes.append(flush_in(payload))
        if len(connection.flushes) > MAX_FLUSHES:
            wrong("too many flushes at a time")

    def _note_size(self, payload: bytes) -> None:
        self._size += len(payload)
        if self._size > MAX_TURN:
            self.commit()

    def restore(self) -> None:
        """Read what an earlier relay stored: open spans, and the keys of what has ended."""
        ended = self._store.ended()
        # Keys of spans (24 bytes) and ids of events (16 bytes) are stored in one table.
        for event_id in (one for one in ended if len(one) != KEY_BYTES):
            self._event_ids.add(event_id)
        self._open_spans.restore(self._store.starts(), (k for k in ended if len(k) == KEY_BYTES))

    # Once in each turn of the event loop.

    def commit(self, lost: Iterable[Closed] = ()) -> None:
        """Write to the store what was received since the last call, and the ``lost`` spans."""
        self._received.count()
        self._ended.put_lost(lost)
        items, self._size = self._ended.take(), 0
        # Before the main store notes the spans as ended: should this relay be killed in between,
        # the next one gets them once more, and recognises those that a lane has already.
        self.acknowledged.update(dict.fromkeys(settle(self.routes.commit())))
        self.acknowledged.update(dict.fromkeys(settle(self._ended.take_settled())))
        changes = self._open_spans.change_log.take()
        if items or (self._store.durable and any(changes)):
            starts = map(self._open_spans.start, changes.opened)
            settled = settle(self._store.append(items, [*starts], changes.ended))
            self.acknowledged.update(dict.fromkeys(settled))
        # ``append`` has removed those that ended; these were forgotten, and have no ended key.
        forgotten = set(changes.closed).difference(changes.ended, changes.opened)
        if forgotten and self._store.durable:
            self._store.start_del(list(forgotten))

    def result(self, connection: Connection) -> None:
        """Send the replies that are due after ``commit``: ACK, FLUSHED, CLOSED.

        Raises:
            HangUpError: the client doesn't read its replies.
        """
        connection.acknowledge()
        if connection.flushes:
            marked = map(self._marked, connection.flushes)
            connection.flushes = [one for one in marked if not self._flushed(connection, *one)]
        connection.answer_close()

    def _marked(self, flush: tuple[int, bytes | Mark]) -> tuple[int, Mark]:
        # After the commit, so that the mark includes what came before the FLUSH.
        number, of = flush
        return number, self.routes.flush(of) if isinstance(of, bytes) else of

    def _flushed(self, connection: Connection, number: int, mark: Mark) -> bool:
        if done := self.routes.is_safe(mark):
            connection.send(FrameKind.FLUSHED, frames.pack(number))
        return done
