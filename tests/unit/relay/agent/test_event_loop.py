"""Turns of the relay's loop, without its process: what a real one can't be made to meet."""

from __future__ import annotations

import errno
import os
import socket
import time
from collections.abc import Generator
from pathlib import Path

import pytest

from taskobs.protocol.frames import FrameKind, encode, pack
from taskobs.protocol.span_encoder import KEY_BYTES
from taskobs.relay.agent import event_loop
from taskobs.relay.agent.event_loop import EventLoop
from taskobs.relay.agent.ring_reader import RingReaders
from taskobs.relay.agent.router import MAX_TURN, FrameRouter
from taskobs.relay.agent.shutdown import ShutdownPolicy, Worker
from taskobs.relay.agent.wakeup_pipe import WakeupPipe
from taskobs.relay.counters import DROPPED, Counters
from taskobs.relay.storage.items import Item
from taskobs.relay.storage.memory import MemoryStore
from taskobs.relay.tracking.open_spans import OpenSpanRegistry
from tests.support.relay_process import Client


class Loop:
    """A relay without senders; `turn` does one turn of its loop."""

    def __init__(self, path: Path) -> None:
        self.address = str(path / "s")
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(self.address)
        self.listener.listen()
        self.listener.settimeout(0)
        self.counters, self.wakeup_pipe = Counters(), WakeupPipe()
        self.store = MemoryStore(self.counters, self.wakeup_pipe.released)
        self.open_spans = OpenSpanRegistry(self.counters, parent=os.getpid())
        self.failing = False
        self.router = FrameRouter(
            store=self.store,
            open_spans=self.open_spans,
            counters=self.counters,
            on_metrics=self.metrics,
            status=lambda: {"worker": "w"},
        )
        self.event_loop = EventLoop(
            self.listener,
            worker=Worker(os.getpid()),
            router=self.router,
            slots=RingReaders(
                None, router=self.router, open_spans=self.open_spans, counters=self.counters
            ),
            open_spans=self.open_spans,
            store=self.store,
            counters=self.counters,
            wakeup_pipe=self.wakeup_pipe,
            shutdown=ShutdownPolicy(10.0),
        )

    def metrics(self, _: bytes) -> None:
        if self.failing:
            raise ZeroDivisionError

    def turn(self, number: int = 1) -> None:
        for _ in range(number):
            self.event_loop._turn()  # pyright: ignore[reportPrivateUsage]

    def dropped(self) -> dict[tuple[str, str], int]:
        return self.counters.counts()[DROPPED]


@pytest.fixture
def loop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Generator[Loop]:
    monkeypatch.setattr(event_loop, "TICK", 0.02)  # a turn with nothing to read takes so long
    loop = Loop(tmp_path)
    yield loop
    loop.event_loop.close()
    loop.wakeup_pipe.close()


@pytest.fixture
def client(loop: Loop) -> Generator[Client]:
    client = Client(loop.address).hello()
    yield client
    client.close()


def test_another_user_is_turned_away(
    loop: Loop, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody else on this machine finds the socket: nothing of theirs is read."""

    def other_user(_: socket.socket) -> tuple[int, int]:
        return 1, os.geteuid() + 1

    monkeypatch.setattr(event_loop, "peer", other_user)
    loop.turn(4)
    assert not client.receive()
    assert loop.dropped() == {("connection", "another user's"): 1}


def test_no_descriptors_left_is_no_end(
    loop: Loop, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process is out of descriptors for a moment: it goes on with those that it has."""

    class Exhausted:
        def fileno(self) -> int:
            return loop.listener.fileno()

        def accept(self) -> None:
            raise OSError(errno.EMFILE, "too many open files")

    with monkeypatch.context() as patch:
        patch.setattr(loop.event_loop, "_listener", Exhausted())
        loop.turn(3)
    assert loop.event_loop.connections == 0
    loop.event_loop.terminate()  # has it look around at once
    loop.turn(3)
    assert loop.event_loop.connections == 1
    assert loop.dropped() == {("connection", "cannot be accepted"): 1}
    client.raw(FrameKind.STATUS)
    loop.turn()
    client.wait_for(FrameKind.STATUS_REPLY)


def test_trouble_of_ours_with_a_frame_costs_one_connection(loop: Loop, client: Client) -> None:
    """A bug that one client's frame meets is not the end of the relay."""
    worker = Client(loop.address).hello(role="worker")
    loop.turn(3)
    loop.failing = True
    worker.say(FrameKind.METRICS, [])
    loop.turn(4)
    assert not worker.receive()
    client.raw(FrameKind.STATUS)
    loop.turn()
    client.wait_for(FrameKind.STATUS_REPLY)
    assert loop.dropped() == {("connection", "not understood"): 1}
    worker.close()


def dead(_pid: int, _started: int) -> bool:
    return False


def test_what_a_process_wrote_before_it_died_is_read_before_its_spans_are_lost(
    loop: Loop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The relay stood still while a child sent its last spans and was killed: none is lost."""
    child = Client(loop.address).hello()
    loop.turn(3)
    keys = [number.to_bytes(KEY_BYTES, "big") for number in range(3)]
    for key in keys:
        child.raw(FrameKind.START, key + b"open")
    loop.turn(3)
    child.close()
    loop.turn(2)
    assert loop.open_spans.waiting
    monkeypatch.setattr(loop.open_spans, "_alive", dead)
    last = Client(loop.address, client=child.client).hello()  # not accepted yet
    for key in keys:
        last.raw(FrameKind.END, key + b"x" * 1_000)
    last.close()
    now = time.monotonic() + 60.0
    monkeypatch.setattr(loop.open_spans, "_clock", lambda: now)
    lost = loop.event_loop._tick(now)  # pyright: ignore[reportPrivateUsage]
    assert lost == []
    loop.router.commit()
    assert loop.store.pending("span").items == 3


def test_a_frame_that_came_while_the_relay_stood_still_is_not_too_slow(
    loop: Loop, client: Client
) -> None:
    """The relay was stopped for a minute in the middle of a large span, which is there."""
    loop.turn(4)
    frame = encode(FrameKind.END, b"k" * KEY_BYTES + b"x" * 100_000)
    client.wire.sendall(frame[:10])
    loop.turn(2)
    client.wire.sendall(frame[10:])
    loop.event_loop._tick(time.monotonic() + 60.0)  # pyright: ignore[reportPrivateUsage]
    loop.turn()
    assert loop.dropped() == {}
    assert loop.event_loop.connections == 1
    assert loop.store.pending("span").items == 1


@pytest.mark.usefixtures("client")
def test_what_a_turn_holds_is_bounded(loop: Loop) -> None:
    """A thousand clients with a large frame each don't fill the memory within one turn."""
    loop.turn(4)
    (connection,) = loop.event_loop._connections  # pyright: ignore[reportPrivateUsage]
    for number in range(MAX_TURN // 1_000_000 + 1):
        payload = number.to_bytes(KEY_BYTES, "big") + b"x" * 1_000_000
        loop.router.frame(connection, FrameKind.END, payload, 0.0)
    assert loop.store.pending("span").items  # while the turn goes on


def test_what_is_released_is_acknowledged(loop: Loop, client: Client) -> None:
    """A sender's thread has sent what this client gave."""
    loop.turn(4)
    client.raw(FrameKind.END, b"k" * KEY_BYTES + b"x")
    client.say(FrameKind.FLUSH, 7)
    loop.turn(4)
    loop.store.done(loop.store.take("span", 9, 9_999, 0.0))
    loop.turn()
    assert client.wait_for(FrameKind.ACK)[0].payload == pack(1)
    assert client.wait_for(FrameKind.FLUSHED)[0].payload == pack(7)


def test_a_flush_ends_with_what_has_no_source(
    loop: Loop, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was sent last needs no acknowledgement, as a held span of an inline worker: I go on."""
    monkeypatch.setattr(event_loop, "TICK", 0.0)
    loop.store.append([Item("span", b"x", b"")])
    client.say(FrameKind.FLUSH, 7)
    loop.turn(4)
    loop.store.done(loop.store.take("span", 9, 9_999, 0.0))
    loop.turn()
    assert client.wait_for(FrameKind.FLUSHED)[0].payload == pack(7)
