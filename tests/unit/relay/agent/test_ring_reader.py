"""What processes write into memory that they share with the relay, and what it makes of it."""

from __future__ import annotations

import gc
import os
import sys
from collections import Counter
from collections.abc import Callable, Generator
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import FrameType, SimpleNamespace
from typing import Any, Final
from unittest.mock import Mock

import pytest
from opentelemetry.sdk.trace import Span as SDKSpan
from opentelemetry.sdk.trace import SpanProcessor

from taskobs.otel.fast_provider import FastSpanProvider
from taskobs.otel.fast_spans import FastSpan
from taskobs.otel.relay_processor import RelayProcessor
from taskobs.protocol import ring, shared_memory, span_encoder
from taskobs.protocol.frames import PROTOCOL, FrameKind, pack, unpack
from taskobs.protocol.ring import RING_HEADER
from taskobs.protocol.shared_memory import SharedMemory
from taskobs.protocol.span_routes import announcement, route_for, with_route
from taskobs.relay.agent import ring_reader, slot_reader
from taskobs.relay.agent.connection import settle
from taskobs.relay.agent.lanes import Lanes
from taskobs.relay.agent.ring_reader import RingReaders
from taskobs.relay.agent.route_table import ROUTES, RouteTable
from taskobs.relay.agent.router import FrameRouter
from taskobs.relay.counters import DROPPED, LOST, Counters
from taskobs.relay.storage.base import Store
from taskobs.relay.storage.items import Item, ItemKind
from taskobs.relay.storage.memory import MemoryStore
from taskobs.relay.storage.spool import store as spool_store
from taskobs.relay.tracking.acknowledgements import Source
from taskobs.relay.tracking.open_spans import OpenSpanRegistry
from taskobs.relay_client import ring_writer
from taskobs.relay_client.client import RelayClient
from taskobs.relay_client.ring_writer import RingWriter
from tests.support.relay_peer import PATIENCE, Peer
from tests.support.relay_process import addressed
from tests.support.relay_spans import end, span, start

pytestmark = pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="needs memfd_create(2)")
HELLO: dict[str, object] = {
    "v": PROTOCOL,
    "pid": 0,
    "role": "pool child",
    "resource": {},
    "schema_url": "",
    "client": b"sixteen bytes id",
    "name": "",
}
RECORD: Final = pack(["INFO", "a line"])


@pytest.fixture(autouse=True)
def room(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give log records, which stand for whatever is not a span, the room of other frames."""
    monkeypatch.setattr(ring_writer, "LOGS", ring.TELEMETRY)


@pytest.fixture
def shared() -> Generator[SharedMemory]:
    made = SharedMemory.create()
    assert made is not None
    yield made
    made.close()


def taken(shared: SharedMemory, hello: object = HELLO) -> RingWriter:
    slot = RingWriter.take(shared, pack(hello))
    assert slot is not None
    return slot


def fill(slot: RingWriter) -> None:
    """Leave no room for telemetry."""
    for size in (60_000, 100):
        for _ in range(ring.TELEMETRY // 60_000 + 1):
            assert slot.append(FrameKind.LOG, RECORD + bytes(size))


class Routes(RouteTable):
    """Puts log records into a list, and no lane."""

    def __init__(self, store: Store, counters: Counters, records: list[bytes]) -> None:
        super().__init__(Lanes(store, counters, lambda _: store), counters)
        self._records = records

    def put_log(self, payload: bytes, resource_blob: bytes, source: Source) -> None:  # noqa: ARG002  # of the class
        self._records.append(payload)
        source.arrived(settled=True)


class Side:
    """The relay's side, without its loop."""

    def __init__(self, shared: SharedMemory, store: Store | None = None) -> None:
        self.now, self.dead = 100.0, False
        self.counters = Counters()
        self.released: list[object] = []
        self.store = store or MemoryStore(self.counters, self.released.extend)
        self.records: list[bytes] = []
        self.open_spans = OpenSpanRegistry(
            self.counters, parent=os.getpid(), clock=lambda: self.now, alive=self.alive
        )
        router = FrameRouter(
            store=self.store,
            open_spans=self.open_spans,
            counters=self.counters,
            status=dict,
            routes=Routes(self.store, self.counters, self.records),
        )
        self.router = router
        self.slots = RingReaders(
            shared,
            router=router,
            open_spans=self.open_spans,
            counters=self.counters,
            clock=lambda: self.now,
            alive=self.alive,
        )

    def alive(self, _pid: int, _started: int) -> bool:
        return not self.dead

    def turn(self, after: float = 0.0) -> list[Item]:
        """Read what there is, so many seconds later; return the spans that came."""
        self.now += after
        self.slots.read()
        self.slots.check()
        items = list(self.router._ended._items)  # pyright: ignore[reportPrivateUsage]
        self.router.commit(self.open_spans.lost())
        self.slots.acknowledge()
        return items

    def sent(self, kind: ItemKind = "span") -> list[Item]:
        """Have what waits sent; return it."""
        self.store.flush()
        waiting = self.store.pending(kind).items
        stored = self.store.take(kind, 1_000, 10_000_000, 0.0) if waiting else []
        self.store.done(stored)
        settle(self.released)
        self.released.clear()
        return [one.item for one in stored]

    def waiting(self) -> int:
        return self.store.pending("span").items

    def dropped_by_kind(self) -> dict[str, int]:
        return {kind: number for (kind, _), number in self.counters.counts()[DROPPED].items()}

    def dropped(self) -> int:
        return sum(self.counters.counts()[DROPPED].values())


# One process and the relay's side of it.


def test_what_is_written_arrives_in_order(shared: SharedMemory) -> None:
    side, slot = Side(shared), taken(shared)
    records = [pack(["task", "succeeded", "queue", float(n)]) for n in range(100)]
    assert all(slot.append(FrameKind.LOG, record) for record in records)
    side.turn()
    assert side.records == records


def test_a_ring_is_used_again_and_again(shared: SharedMemory) -> None:
    """A process writes many times what the ring holds, at every offset."""
    side, slot = Side(shared), taken(shared)
    record = RECORD
    for number in range(1_600):
        record = RECORD + bytes(number * 37 % 60_000)
        if number % 100 == 0:
            side.turn()
        assert slot.append(FrameKind.LOG, record)
    side.turn()
    assert len(side.records) == 1_600
    assert sum(map(len, side.records)) > 5 * shared_memory.RING
    assert side.records[-1] == record
    side.turn(after=2.0)
    assert side.dropped() == 0


def test_what_finds_a_ring_full_is_counted_by_the_relay(shared: SharedMemory) -> None:
    """The relay stood still for long: what I read as arrived and as dropped is all that there was.

    That holds also if the process and that relay are killed before the next relay reads.
    """
    first, slot = Side(shared), taken(shared)
    large = RECORD + bytes(30_000)
    room = ring.TELEMETRY // (len(large) + RING_HEADER.size)
    for _ in range(room + 5):
        assert slot.append(FrameKind.LOG, large)
    assert slot.append(FrameKind.END, large)
    assert slot.append(FrameKind.LOG, large)
    assert slot.append(FrameKind.ENVELOPE, large)
    first.turn()
    assert len(first.records) == room
    assert first.dropped_by_kind() == {"span": 1, "envelope": 1, "log": 6}
    assert slot.append(FrameKind.LOG, large)
    assert slot.append(FrameKind.LOG, bytes(shared_memory.RING))
    second = Side(shared)
    second.dead = True
    second.turn(after=2.0)
    assert len(second.records) == second.dropped() == 1


@pytest.mark.parametrize("way", ["table", "ring"])
def test_a_span_whose_end_was_dropped_is_not_lost_as_well(shared: SharedMemory, way: str) -> None:
    """It had ended while the relay stood still: it counts once, among what was dropped."""
    first, slot = Side(shared), taken(shared)
    payload = start(span())[1]
    key = payload[: span_encoder.KEY_BYTES]
    assert slot.opened(key, payload) if way == "table" else slot.append(FrameKind.START, payload)
    for _ in range(2):
        first.turn(after=2.0)
    assert first.open_spans.open == 1
    fill(slot)
    assert slot.append(FrameKind.END, key + bytes(shared_memory.RING))
    slot.closed(key)
    second = Side(shared)
    for side in (first, second):
        side.turn(after=2.0)
        assert side.open_spans.open == 0
    second.dead = True
    for _ in range(3):
        second.turn(after=2.0)
    assert second.counters.counts()[LOST] == {}
    assert first.dropped_by_kind()["span"] == 1


def test_long_frames_leave_room_for_short_ones(shared: SharedMemory) -> None:
    """A task records long spans while the relay stands still: runs and events are not dropped."""
    side, slot = Side(shared), taken(shared)
    for number in range(14):
        key = number.to_bytes(span_encoder.KEY_BYTES, "big")
        assert slot.append(FrameKind.END, key + bytes(1_000_000))
    for number in range(500):
        assert slot.append(FrameKind.END, end(f"short {number}")[1])
        assert slot.append(FrameKind.LOG, RECORD)
        assert slot.append(FrameKind.ENVELOPE, addressed("http://k@host/1", b"{}"))
    side.turn()
    long = ring.LONG_FRAMES // 1_000_000
    assert side.dropped_by_kind() == {"span": 14 - long}
    assert len(side.records) == 500
    assert (side.waiting(), side.store.pending("envelope").items) == (long + 500, 500)


def test_a_ring_takes_little_memory(shared: SharedMemory) -> None:
    """What is safe is returned to the system, so that my container's limit holds for the rest."""
    side, slot = Side(shared), taken(shared)
    for _ in range(3 * shared_memory.RING // 30_000):
        assert slot.append(FrameKind.LOG, RECORD + bytes(30_000))
        side.turn()
    used = os.fstat(shared.descriptor).st_blocks * 512
    assert 0 < used < 2 * slot_reader.STEP


def test_what_a_killed_process_held_in_its_own_memory_is_counted(shared: SharedMemory) -> None:
    """It was killed while one of its threads wrote, and others' frames waited for that.

    They are counted by what they are: a span, the record of its run, an event.
    """
    side, slot = Side(shared), taken(shared)
    slot._writer["writer"] = object()  # pyright: ignore[reportPrivateUsage]
    assert slot.append(FrameKind.END, end()[1])
    assert slot.append(FrameKind.LOG, RECORD)
    assert slot.append(FrameKind.ENVELOPE, addressed("http://k@host/1", b"{}"))
    side.turn(after=2.0)
    assert (side.records, side.waiting(), side.dropped()) == ([], 0, 0)
    side.dead = True
    side.turn(after=2.0)
    side.turn(after=2.0)
    assert (side.records, side.waiting()) == ([], 0)
    assert side.dropped_by_kind() == {"span": 1, "log": 1, "envelope": 1}


def test_what_was_written_after_all_is_not_counted(shared: SharedMemory) -> None:
    """Frames waited for another thread, which wrote them: a kill afterwards loses none."""
    side, slot = Side(shared), taken(shared)
    slot._writer["writer"] = object()  # pyright: ignore[reportPrivateUsage]
    for number in range(3):
        assert slot.append(FrameKind.END, end(f"span {number}")[1])
        assert slot.append(FrameKind.LOG, RECORD)
    slot._writer.clear()  # pyright: ignore[reportPrivateUsage]
    assert slot.append(FrameKind.ENVELOPE, addressed("http://k@host/1", b"{}"))
    side.dead = True
    side.turn(after=2.0)
    side.turn(after=2.0)
    assert (len(side.records), side.waiting(), side.dropped()) == (3, 3, 0)


def test_a_process_may_be_killed_at_any_point_of_a_write(shared: SharedMemory) -> None:
    """Wherever the kill strikes while a span ends, the span arrives once: as ended, or as lost."""
    client = RelayClient("/nowhere", lambda: HELLO, memory=shared)
    payload = start(span())[1]
    key = payload[: span_encoder.KEY_BYTES]
    client.started(key, payload)
    [index] = shared.taken()
    images: list[bytes] = []
    size = shared_memory.RING_AT + 8_192

    def trace(frame: FrameType, event: str, _: object) -> Any:
        if frame.f_code.co_filename.endswith(("ring_writer.py", "relay_client/client.py")):
            if event == "line":
                images.append(shared.read(index, 0, size))
            return trace
        return None

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        client.ended(key, payload)
    finally:
        sys.settrace(before)
    assert len(images) > 20
    ends: Counter[str] = Counter()
    for image in images:
        ends[after_a_kill(image)] += 1
    assert ends.keys() == {"lost", "ended"}
    client.close()


def after_a_kill(image: bytes) -> str:
    """Tell what comes of a span whose process was killed when its slot held this."""
    memory = SharedMemory.create()
    assert memory is not None
    try:
        index = memory.take()
        assert index is not None
        os.pwrite(memory.descriptor, image, shared_memory.PAGE + index * shared_memory.SLOT_BYTES)
        side = Side(memory)
        side.dead = True
        side.turn(after=2.0)
        side.turn(after=30.0)
        lost = side.counters.total(LOST)
        assert side.dropped() == 0
        assert side.waiting() == 1
        return "lost" if lost else "ended"
    finally:
        memory.close()


def test_a_writer_that_makes_no_progress_is_replaced(
    shared: SharedMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Should an exception ever leave one behind, what waits for it is written a little later."""
    side, slot = Side(shared), taken(shared)
    clock = iter((100.0, 104.0, 106.0))
    time = SimpleNamespace(monotonic=lambda: next(clock))
    monkeypatch.setattr("taskobs.relay_client.ring_writer.time", time)
    slot._writer["writer"] = object()  # pyright: ignore[reportPrivateUsage]
    records = [pack(["task", "succeeded", "queue", float(n)]) for n in range(4)]
    for record in records[:2]:
        assert slot.append(FrameKind.LOG, record)
    side.turn()
    assert side.records == []
    for record in records[2:]:
        assert slot.append(FrameKind.LOG, record)
    side.turn()
    assert sorted(side.records) == sorted(records)


def test_a_writer_that_was_replaced_writes_nothing_over(shared: SharedMemory) -> None:
    """It stood still for so long that others wrote where it would have."""
    side, slot = Side(shared), taken(shared)
    done = False

    def interrupt(_frame: object, event: str, called: object) -> None:
        nonlocal done
        if event == "c_call" and called is len and not done:
            done = True
            slot._writer.clear()  # pyright: ignore[reportPrivateUsage]
            assert slot.append(FrameKind.LOG, RECORD)

    slow = pack(["slow", "succeeded", "queue", 0.5])
    sys.setprofile(interrupt)
    try:
        assert slot.append(FrameKind.LOG, slow)
    finally:
        sys.setprofile(None)
    side.turn()
    assert done
    assert sorted(side.records) == sorted([RECORD, slow])
    assert side.dropped() == 0


def test_a_long_frame_arrives(shared: SharedMemory) -> None:
    """An event with an attachment of some megabytes, among short ones, at the end of the ring."""
    side, slot = Side(shared), taken(shared)
    envelopes = b"short", os.urandom(3_000_000), b"short"
    arrived: list[bytes] = []
    for _ in range(5):
        for envelope in envelopes:
            assert slot.append(FrameKind.ENVELOPE, addressed("http://k@host/1", envelope))
        side.turn()
        arrived += [item.payload for item in side.sent("envelope")]
    assert arrived == [*envelopes] * 5


def test_an_envelope_is_handed_on_with_its_destination(shared: SharedMemory) -> None:
    side, slot = Side(shared), taken(shared)
    for payload in (addressed("http://k@host/1", b"{}"), addressed("http://k@host/1", b"{} ")):
        assert slot.append(FrameKind.ENVELOPE, payload)
    first, second = side.turn()
    assert (first.kind, first.payload, second.payload) == ("envelope", b"{}", b"{} ")
    assert unpack(first.resource_blob)["dsn"] == "http://k@host/1"
    assert first.resource_blob is second.resource_blob


def test_open_spans_beyond_the_table_are_lost_with_their_process(shared: SharedMemory) -> None:
    """The 257th open span, or one that is too long for the table: the next relay knows it too."""
    slot = taken(shared)
    lasting, ending = (start(span())[1] for _ in range(2))
    for payload in (lasting, ending):
        assert slot.append(FrameKind.START, payload)
    first = Side(shared)
    first.turn()
    assert first.open_spans.open == 2
    second = Side(shared)
    second.turn()
    assert second.open_spans.open == 2
    assert slot.append(FrameKind.END, ending)
    second.turn()
    assert second.open_spans.open == 1
    second.dead = True
    second.turn(after=2.0)
    second.turn(after=2.0)
    assert second.counters.counts()[LOST] == {("span", ""): 1}
    second.sent()
    second.turn(after=2.0)
    assert shared.taken() == []


def test_open_spans_that_are_forgotten_keep_no_slot(
    shared: SharedMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A leak of spans costs a process its oldest, and my worker no slot."""
    monkeypatch.setattr("taskobs.relay.tracking.open_spans.OPEN_SPANS", 3)
    side, slot = Side(shared), taken(shared)
    for _ in range(10):
        assert slot.append(FrameKind.START, start(span())[1])
    side.turn()
    side.dead = True
    for _ in range(3):
        side.turn(after=2.0)
        side.sent()
    side.turn(after=2.0)
    assert shared.taken() == []


def test_what_is_not_safe_is_kept(shared: SharedMemory) -> None:
    """The relay dies with spans that no backend has: the next one reads them again."""
    slot = taken(shared)
    frames = [end(f"span {number}") for number in range(5)]
    for kind, payload in frames:
        assert slot.append(kind, payload)
    first = Side(shared)
    assert len(first.turn()) == 5
    assert [payload for _, payload in slot.unread()] == [payload for _, payload in frames]


def test_what_is_safe_is_forgotten_and_the_rest_after_a_while(shared: SharedMemory) -> None:
    """A backend that is gone for long must not keep my processes from telling new things."""
    side, slot = Side(shared), taken(shared)
    _, payload = end("a name of a thousand characters".ljust(1_000))
    total = 0
    for number in range(3 * shared_memory.RING // len(payload)):
        unique = number.to_bytes(24, "big") + payload[24:]
        total += slot.append(FrameKind.END, unique)
        if number % 100 == 0:
            side.turn()
    side.turn()
    assert total == 3 * shared_memory.RING // len(payload)
    kept = sum(len(payload) + RING_HEADER.size for _, payload in slot.unread())
    assert slot_reader.KEEP - len(payload) < kept <= slot_reader.KEEP


def test_an_open_span_is_lost_with_its_process(shared: SharedMemory) -> None:
    side, slot = Side(shared), taken(shared)
    spans = [span(f"span {number}") for number in range(3)]
    for one in spans:
        key, payload = start(one)[1][:24], start(one)[1]
        assert slot.opened(key, payload)
    assert slot.closed(start(spans[1])[1][:24])
    side.turn()
    assert not side.open_spans.open
    side.dead = True
    side.turn(after=2.0)
    side.turn(after=2.0)
    assert side.counters.counts()[LOST] == {("span", ""): 2}


def test_a_loss_is_told_by_the_next_relay_unless_it_is_out(shared: SharedMemory) -> None:
    """A relay is killed when it has sent that my spans are lost, or just before that."""
    slot = taken(shared)
    _, payload = start(span())
    assert slot.opened(payload[:24], payload)
    first = Side(shared)
    first.dead = True
    first.turn(after=2.0)
    first.turn(after=2.0)
    assert first.waiting() == 1
    second = Side(shared)
    second.dead = True
    second.turn(after=2.0)
    second.turn(after=2.0)
    assert len(second.sent()) == 1
    assert shared.taken() == [0]
    third = Side(shared)
    third.dead = True
    for _ in range(3):
        third.turn(after=2.0)
    assert not third.counters.counts()[LOST]
    assert shared.taken() == []


def test_a_span_that_another_process_ended_is_told_by_no_later_relay(shared: SharedMemory) -> None:
    """The worker tells how a run ended whose child was killed; then the relay is killed."""
    side, slot, parent = Side(shared), taken(shared), taken(shared, {**HELLO, "client": b"p" * 16})
    one = span()
    _, payload = start(one)
    assert slot.opened(payload[:24], payload)
    side.turn(after=2.0)
    side.turn(after=2.0)
    assert parent.append(FrameKind.END, payload)
    side.dead = True
    side.turn(after=2.0)
    assert not shared.read_word(0, shared_memory.OPEN_WORDS)


def test_a_span_that_is_told_of_again_is_kept_on_disk(shared: SharedMemory, tmp_path: Path) -> None:
    """Its child is dead, the worker may still tell how the run ended, and all are killed now."""
    store = spool_store.Spool(
        Counters(), spool_store.SpoolConfig(tmp_path, "celery@host", worker_pid=os.getpid())
    )
    side = Side(shared, store)
    other = side.open_spans.joined(b"c" * 16, 7, b"")
    _, payload = start(span())
    for told in (payload, payload, payload + b"!"):
        side.open_spans.started(other, told[:24], told[24:])
        side.router.commit()
        (kept,) = store.starts()
        assert kept.payload == told[24:]
    store.close()


def test_a_killed_process_has_said_more_after_what_is_no_frame(shared: SharedMemory) -> None:
    side, slot = Side(shared), taken(shared)
    for payload in (b"short", RECORD):
        assert slot.append(FrameKind.LOG, payload)
        assert slot.append(FrameKind.END, b"short")
    assert slot.append(FrameKind.LOG, RECORD)
    side.dead = True
    side.turn()
    side.turn(after=2.0)
    side.turn(after=2.0)
    assert side.records.count(RECORD) == 2


@pytest.mark.parametrize("event", ["c_call", "c_return"])
def test_an_exception_that_strikes_takes_no_place_of_the_table(
    shared: SharedMemory, event: str
) -> None:
    """However many time limits strike, there is room for what is open."""
    slot = taken(shared)

    def strike(_frame: object, happens: str, called: object) -> None:
        if happens == event and called is not sys.setprofile:
            raise TimeoutError

    for number in range(shared_memory.OPEN):
        key = number.to_bytes(24, "big")
        for act in (partial(slot.opened, key, b"payload"), partial(slot.closed, key)):
            sys.setprofile(strike)
            with suppress(TimeoutError):
                act()
            sys.setprofile(None)
        slot.closed(key)
    keys = [number.to_bytes(24, "big") for number in range(shared_memory.OPEN)]
    assert all(slot.opened(key, b"payload") for key in keys)


def test_a_slot_that_was_left_is_not_written_to(shared: SharedMemory) -> None:
    """A thread goes on when its process has sent CLOSE: the slot may be another's by then."""
    slot = taken(shared)
    assert slot.opened(b"k" * 24, b"payload")
    slot.close()
    shared.free(0)
    before = shared.read(0, 0, shared_memory.SLOT_BYTES)
    assert not slot.append(FrameKind.LOG, RECORD)
    assert not slot.opened(b"l" * 24, b"payload")
    assert not slot.closed(b"k" * 24)
    assert shared.read(0, 0, shared_memory.SLOT_BYTES) == before


def test_a_slot_whose_process_lives_is_nobody_elses(shared: SharedMemory) -> None:
    """It has not said who it is in words that the relay knows: what it tells is not read."""
    side, slot = Side(shared), taken(shared, "who I am")
    side.turn()
    side.turn(after=2.0)
    assert side.dropped() == 1
    assert shared.taken() == [0]
    assert slot.append(FrameKind.LOG, RECORD)
    side.dead = True
    side.turn(after=2.0)
    assert shared.taken() == []
    assert side.dropped() == 1


def test_a_slot_is_freed_where_nothing_can_be_mapped(
    shared: SharedMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The relay has no address space left: it goes on, without what it can't map."""
    side, slot = Side(shared), taken(shared)
    slot.close()
    monkeypatch.setattr(SharedMemory, "map", Mock(side_effect=OSError("no memory")))
    side.turn(after=2.0)
    side.turn(after=2.0)
    assert shared.taken() == []


def test_a_span_that_ended_is_not_lost_though_its_end_was_not_noted(shared: SharedMemory) -> None:
    """A time limit struck between the two: the end itself has been told."""
    side, slot = Side(shared), taken(shared)
    one = span()
    _, payload = start(one)
    assert slot.opened(payload[:24], payload)
    assert slot.append(FrameKind.END, payload)
    side.turn(after=2.0)
    side.turn(after=2.0)
    side.dead = True
    side.turn(after=2.0)
    side.turn(after=30.0)
    assert not side.counters.counts()[LOST]


def test_a_span_that_is_open_for_long_is_known_before_its_process_dies(
    shared: SharedMemory,
) -> None:
    """So that it outlives the worker too, where there is a spool."""
    side, slot = Side(shared), taken(shared)
    _, payload = start(span())
    assert slot.opened(payload[:24], payload)
    side.turn(after=2.0)
    side.turn(after=2.0)
    assert side.open_spans.open == 1
    assert slot.append(FrameKind.END, payload)
    assert slot.closed(payload[:24])
    side.turn(after=2.0)
    assert not side.open_spans.open


def test_more_open_spans_than_there_is_room_for(shared: SharedMemory) -> None:
    slot = taken(shared)
    _, payload = start(span())
    keys = [number.to_bytes(24, "big") for number in range(shared_memory.OPEN + 1)]
    assert [slot.opened(key, payload) for key in keys] == [True] * shared_memory.OPEN + [False]
    assert slot.closed(keys[0])
    assert not slot.closed(keys[0])
    assert slot.opened(keys[-1], payload)
    assert not slot.opened(keys[0], bytes(shared_memory.OPEN_BYTES + 1))


def test_a_slot_is_free_again_after_its_process(shared: SharedMemory) -> None:
    side, slot = Side(shared), taken(shared)
    assert slot.append(FrameKind.LOG, RECORD)
    side.turn()
    assert shared.taken() == [0]
    slot.close()
    assert side.slots.live
    side.turn(after=2.0)
    assert not side.slots.live
    side.turn(after=2.0)
    assert shared.taken() == []
    assert not any(shared.read(0, 0, shared_memory.SLOT_BYTES))
    again = taken(shared)
    assert again.append(FrameKind.LOG, RECORD)
    side.turn()
    assert side.records == [RECORD, RECORD]


def test_a_slot_whose_process_died_before_it_said_who_it_is(shared: SharedMemory) -> None:
    assert shared.take() == 0
    side = Side(shared)
    side.turn()
    assert shared.taken() == [0]
    side.turn(after=ring_reader.UNNAMED + 1)
    assert shared.taken() == [0]  # it lives, and is slow
    side.dead = True
    side.turn()
    assert shared.taken() == []


def test_no_slot_is_left(shared: SharedMemory) -> None:
    """The 1025th process of my worker uses the socket."""
    assert [shared.take() for _ in range(shared_memory.SLOTS)] == list(range(shared_memory.SLOTS))
    assert RingWriter.take(shared, pack(HELLO)) is None
    assert shared.take() is None


class AnnouncedStore(MemoryStore):
    """Notes what is announced."""

    def __init__(self, counters: Counters) -> None:
        super().__init__(counters)
        self.announced: list[bytes] = []

    def announce(self, announcement: bytes) -> None:
        self.announced.append(announcement)


def test_where_a_process_sends_to_is_read_again_when_there_is_more(shared: SharedMemory) -> None:
    """My process sets a second Sentry client up: the relay hears of both, without an event."""
    store = AnnouncedStore(Counters())
    side, slot = Side(shared, store), taken(shared)
    first, second = (pack({"dsn": f"https://k@s/{n}", "options": {}}) for n in range(2))
    slot.announce(pack([first]))
    side.turn()
    assert store.announced == [first]
    side.turn(after=2.0)
    slot.announce(pack([first, second]))
    side.turn(after=2.0)
    assert store.announced == [first, first, second]
    other = Side(shared, store)
    other.turn()
    assert store.announced == [first, first, second, first, second]


def test_destinations_that_are_none_do_no_harm(shared: SharedMemory) -> None:
    """Whatever stands there, the frames of that process are read."""
    store = AnnouncedStore(Counters())
    side, slot = Side(shared, store), taken(shared)
    for announced in (b"\xc1", pack([5]), pack([b"no destination"]), pack({}), b"x" * 20_000):
        slot.announce(announced)
        side.turn(after=2.0)
    shared.write_word(0, shared_memory.DESTINATIONS, 2**64 - 1)  # two threads wrote at once
    side.turn(after=2.0)
    assert store.announced == []
    assert slot.append(FrameKind.LOG, RECORD)
    side.turn(after=2.0)
    assert side.records == [RECORD]
    assert side.dropped() == 4


# What is no frame.


@pytest.mark.parametrize(
    "words",
    [
        {shared_memory.WRITTEN: 2**63},
        {shared_memory.WRITTEN: shared_memory.RING + 1},
        {shared_memory.WRITTEN: 5, shared_memory.RELEASED: 2**64 - 1},
        {shared_memory.HELLO: 2**64 - 1},
        {shared_memory.HELLO: 0},
        dict.fromkeys(range(shared_memory.DROPPED, shared_memory.OPEN_WORDS), 2**64 - 1),
        {shared_memory.PID: 2**64 - 1},
        {shared_memory.OPEN_WORDS: 2**64 - 1, shared_memory.OPEN_WORDS + 255: 1},
        dict.fromkeys(range(shared_memory.WORDS), 2**64 - 1),
    ],
)
def test_words_that_make_no_sense_do_no_harm(shared: SharedMemory, words: dict[int, int]) -> None:
    """Whatever is in one slot, the others are read."""
    slot, good = taken(shared), taken(shared)
    for word, value in words.items():
        shared.write_word(0, word, value)
    assert good.append(FrameKind.LOG, RECORD)
    side = Side(shared)
    for _ in range(3):
        side.turn(after=2.0)
    side.dead = True
    side.turn(after=2.0)
    assert side.records == [RECORD]
    assert slot


def test_a_frame_that_is_not_whole_is_waited_for_then_passed_over(shared: SharedMemory) -> None:
    side, slot = Side(shared), taken(shared)
    assert slot.append(FrameKind.LOG, RECORD)
    at = shared_memory.PAGE + shared_memory.RING_AT + RING_HEADER.size
    os.pwrite(shared.descriptor, bytes([RECORD[0] ^ 1]), at)
    assert slot.append(FrameKind.LOG, RECORD)
    side.turn()
    assert not side.records
    os.pwrite(shared.descriptor, RECORD[:1], at)
    side.turn()
    assert len(side.records) == 2
    assert slot.append(FrameKind.LOG, RECORD)
    os.pwrite(shared.descriptor, b"\xc1", at + 2 * (len(RECORD) + RING_HEADER.size))
    for _ in range(slot_reader.TORN + 1):
        side.turn()
    assert side.dropped() == 1
    assert slot.append(FrameKind.LOG, RECORD)
    side.turn()
    assert len(side.records) == 3


def test_a_malformed_frame_is_counted_by_its_kind_and_alone(shared: SharedMemory) -> None:
    """Something wrote over a part of my process's memory: one span is gone, and counted as one."""
    side, slot = Side(shared), taken(shared)
    _, payload = end("torn")
    assert slot.append(FrameKind.END, payload)
    for number in range(3):
        assert slot.append(FrameKind.END, end(f"span {number}")[1])
        assert slot.append(FrameKind.LOG, RECORD)
    at = shared_memory.PAGE + shared_memory.RING_AT + RING_HEADER.size
    os.pwrite(shared.descriptor, bytes([payload[0] ^ 1]), at)
    for _ in range(slot_reader.TORN + 2):
        side.turn()
    assert side.dropped_by_kind() == {"span": 1}
    assert (side.waiting(), len(side.records)) == (3, 3)


def test_what_follows_a_malformed_header_is_skipped_and_counted(shared: SharedMemory) -> None:
    """Nobody knows how many frames there were: it counts as one, and the next ones arrive."""
    side, slot = Side(shared), taken(shared)
    for _ in range(3):
        assert slot.append(FrameKind.LOG, RECORD)
    os.pwrite(shared.descriptor, b"\xff" * 4, shared_memory.PAGE + shared_memory.RING_AT)
    for _ in range(slot_reader.TORN + 2):
        side.turn()
    assert side.dropped_by_kind() == {"frame": 1}
    assert slot.append(FrameKind.LOG, RECORD)
    side.turn()
    assert len(side.records) == 1


@pytest.mark.parametrize(
    ("kind", "payload"), [(FrameKind.HELLO, b""), (99, b"x"), (FrameKind.END, b"short")]
)
def test_what_does_not_belong_in_a_slot_is_counted(
    shared: SharedMemory, kind: int, payload: bytes
) -> None:
    side, slot = Side(shared), taken(shared)
    assert slot.append(kind, payload)
    assert slot.append(FrameKind.LOG, RECORD)
    side.turn()
    side.turn()
    assert side.dropped() == 1
    assert side.records == [RECORD]


# A client that has a slot.


def test_a_write_within_a_write_follows_it(shared: SharedMemory, peer: Peer) -> None:
    """A signal's handler, or a finalizer, tells something in the midst of another one's write."""
    client = RelayClient(peer.address, lambda: HELLO, memory=shared)
    done = False

    def interrupt(frame: object, event: str, _: object) -> None:
        nonlocal done
        if event == "call" and "_put" in str(frame) and not done:
            done = True
            client.send(FrameKind.LOG, b"inner")

    sys.setprofile(interrupt)
    try:
        client.send(FrameKind.LOG, b"outer")
    finally:
        sys.setprofile(None)
    slot = client._slot  # pyright: ignore[reportPrivateUsage]
    assert slot is not None
    told = [(FrameKind.LOG, b"outer"), (FrameKind.LOG, b"inner")]
    assert list(slot.unread()) == told
    client.close()


def test_an_exception_that_strikes_a_write_leaves_none_of_it(
    shared: SharedMemory, peer: Peer
) -> None:
    """A soft time limit may strike anywhere; what is told after it arrives."""
    for number in range(1, 60):
        client = RelayClient(peer.address, lambda: HELLO, memory=shared)
        client.send(FrameKind.LOG, b"before")
        calls = 0

        def strike(_frame: object, _event: str, called: object, at: int = number) -> None:
            nonlocal calls
            calls += 1
            if calls == at and called is not sys.setprofile:
                raise TimeoutError

        sys.setprofile(strike)
        try:
            client.send(FrameKind.LOG, b"struck")
        except TimeoutError:
            pass
        finally:
            sys.setprofile(None)
        client.send(FrameKind.LOG, b"after")
        slot = client._slot  # pyright: ignore[reportPrivateUsage]
        assert slot is not None
        told = [payload for _, payload in slot.unread()]
        assert told in ([b"before", b"after"], [b"before", b"struck", b"after"])
        client.close()


def unpacked(payload: bytes) -> tuple[bytes, list[Any]]:
    key, packed = span_encoder.split(payload)
    return key, span_encoder.unpack_whole_row(packed)


@pytest.mark.parametrize("light", [False, True])
@pytest.mark.parametrize("at", range(2, 60))
def test_a_span_whose_end_is_struck_is_told_of(
    shared: SharedMemory, peer: Peer, at: int, *, light: bool
) -> None:
    """A soft time limit strikes while a span ends: it is not taken for one that is still open."""
    client = RelayClient(peer.address, lambda: HELLO, memory=shared)
    processor = RelayProcessor(client, SpanProcessor())
    one = fast_span(processor) if light else span()
    assert isinstance(one, SDKSpan)
    if light:
        strike(one.end, at)
        if one.is_recording():  # it struck before anything was done
            one.end()
    else:
        processor.on_start(one)
        one.end()
        strike(partial(processor.on_end, one), at)
    slot = client._slot  # pyright: ignore[reportPrivateUsage]
    assert slot is not None
    told = list(slot.unread())
    ends = [payload for kind, payload in told if kind == FrameKind.END]
    assert ends
    assert all(unpacked(end) == unpacked(span_encoder.pack_end(one)) for end in ends)
    assert not shared.read_word(0, shared_memory.OPEN_WORDS)
    client.close()


@pytest.mark.parametrize("light", [False, True])
@pytest.mark.parametrize("at", range(1, 60))
def test_a_span_whose_start_is_struck_is_forgotten(
    shared: SharedMemory, peer: Peer, at: int, *, light: bool
) -> None:
    """Nobody gets it from the tracer, so nobody will end it; and there is a slot afterwards."""
    client = RelayClient(peer.address, lambda: HELLO, memory=shared)
    processor = RelayProcessor(client, SpanProcessor())
    one = fast_span() if light else span()
    assert isinstance(one, SDKSpan)
    start: Callable[[Any], None] = processor.fast_span_started if light else processor.on_start
    if strike(partial(start, one), at):
        assert not any(
            shared.read(
                0,
                shared_memory.OPEN_WORDS * shared_memory.WORD,
                shared_memory.OPEN * shared_memory.WORD,
            )
        )
    client.send(FrameKind.LOG, RECORD)
    slot = client._slot  # pyright: ignore[reportPrivateUsage]
    assert slot is not None
    assert list(slot.unread()) == [(FrameKind.LOG, RECORD)]
    client.close()


class Nowhere:
    """Takes fast spans, and forgets them."""

    def fast_span_started(self, span: FastSpan) -> None: ...

    def fast_span_ended(self, span: FastSpan, *, again: bool = False) -> None: ...


def fast_span(spans: RelayProcessor | None = None) -> FastSpan:
    """Start a fast span that ``spans``, or else nobody, has been told of."""
    made = FastSpanProvider(shutdown_on_exit=False)
    made.add_span_processor(SpanProcessor())
    made.route_to(spans or Nowhere())
    found = made.get_tracer("shop").start_span("x")
    assert isinstance(found, FastSpan)
    return found


def strike(act: Callable[[], object], at: int) -> bool:
    """Have an exception strike at a call that is made; tell whether there were as many."""
    calls = 0

    def count(_frame: object, _event: str, called: object) -> None:
        nonlocal calls
        calls += 1
        if calls == at and called is not sys.setprofile:
            raise TimeoutError

    gc.disable()  # an exception in the finalizer of another test's garbage would strike nobody
    sys.setprofile(count)
    try:
        act()
    except TimeoutError:
        return True
    finally:
        sys.setprofile(None)
        gc.enable()
    return False


def test_a_client_that_is_closed_lets_go_of_the_memory(shared: SharedMemory, peer: Peer) -> None:
    """My process goes on after its worker, with as many descriptors as before."""

    def held() -> int:
        links = Path("/proc/self/fd").iterdir()
        found = [str(path.readlink()) for path in links if path.is_symlink()]
        return sum("memfd:taskobs" in path for path in found)

    before = held()
    client = RelayClient(peer.address, lambda: HELLO, memory=shared)
    client.send(FrameKind.LOG, RECORD)
    assert held() == before + 1
    gc.disable()
    try:
        client.close()
        assert held() == before
    finally:
        gc.enable()


def test_what_nobody_will_read_is_left_over(shared: SharedMemory, peer: Peer) -> None:
    """There is no relay any more: what it has not sent is for my process to send."""
    client = RelayClient(peer.address, lambda: HELLO, memory=shared)
    client.ended(b"k" * 24, b"k" * 24 + b"before")
    assert not client.unavailable
    peer.stop_listening()
    shared.abandon()
    client.ended(b"l" * 24, b"l" * 24 + b"after")
    assert client.unavailable
    assert client.undelivered(FrameKind.END) == [b"k" * 24 + b"before", b"l" * 24 + b"after"]
    assert client.undelivered(FrameKind.END) == []
    client.close()


def test_the_worker_inherits_what_dead_children_have_told(shared: SharedMemory, peer: Peer) -> None:
    """My children are killed before the worker knows that there will be no relay."""
    worker = RelayClient(peer.address, lambda: HELLO, memory=shared, is_main_process=True)
    worker.ended(b"w" * 24, b"w" * 24 + b"worker")
    alive = taken(shared)
    assert alive.append(FrameKind.END, b"a" * 24 + b"alive")
    killed = taken(shared)
    assert killed.append(FrameKind.END, b"c" * 24 + b"killed")
    shared.write_word(2, shared_memory.PID, 2**22 + 1)
    shared.abandon()
    peer.stop_listening()
    worker.open()
    assert worker.unavailable
    assert worker.undelivered(FrameKind.END) == [b"w" * 24 + b"worker", b"c" * 24 + b"killed"]
    assert worker.undelivered(FrameKind.END) == []
    worker.close()


def test_a_process_that_starts_when_there_is_no_relay_any_more(
    shared: SharedMemory, peer: Peer
) -> None:
    shared.abandon()
    peer.stop_listening()
    client = RelayClient(peer.address, lambda: HELLO, memory=shared)
    client.ended(b"k" * 24, b"k" * 24 + b"only")
    assert client.unavailable
    assert client.undelivered(FrameKind.END) == [b"k" * 24 + b"only"]


def test_memory_of_another_process_is_found_by_its_number(shared: SharedMemory) -> None:
    found = SharedMemory.of(os.getpid(), shared.descriptor)
    assert found is not None
    assert shared.take() == 0
    assert found.taken() == [0]
    found.close()
    assert SharedMemory.of(os.getpid(), 0) is None
    assert SharedMemory.of(os.getpid(), 10_000) is None


def test_a_route_that_was_forgotten_is_announced_again(shared: SharedMemory) -> None:
    """A long task ends after thousands of other processes: its span goes where it belongs."""
    settings: dict[str, object] = {
        "protocol": "http/protobuf",
        "endpoint": "http://127.0.0.1:9",
        "headers": {},
    }

    def announced(pid: int) -> bytes:
        return announcement({"process.pid": pid}, "", [pack({**settings, "timeout": 1.0})])

    side, slot = Side(shared), taken(shared)
    routes = side.router.routes
    try:
        slot.announce(pack([announced(0)]))
        side.turn()
        for pid in range(1, ROUTES + 1):
            routes.announce(announced(pid))
        assert slot.append(FrameKind.END, with_route(end()[1], route_for(announced(0))))
        side.turn()
        assert routes.pending == 1
        side.turn(after=1.1)
        side.turn()
        assert (side.waiting(), routes.pending, side.dropped()) == (1, 2, 0)
    finally:
        for lane in routes.lanes.all:
            lane.sender.stop(0.0)
            assert lane.sender.join(PATIENCE)


def test_a_restarted_relay_finds_what_was_announced_last(shared: SharedMemory) -> None:
    """My provider gets one processor after another: where its spans go outlives the relay."""
    client = RelayClient("/nowhere", lambda: dict(HELLO), memory=shared, idle_thread=False)
    try:
        announced = [announcement({"a": "x" * 10_000}, "", [bytes([n])]) for n in range(4)]
        for one in announced:
            client.announce(one, now=True)
        side = Side(shared)
        side.turn()
        payload = with_route(end()[1], route_for(announced[-1]))
        client.ended(payload[:24], payload)
        side.turn()
        assert (side.router.routes.pending, side.dropped()) == (0, 1)  # no settings of an exporter
    finally:
        client.close()
