from __future__ import annotations

import contextlib
import errno
import gc
import os
import signal
import threading
import time
from collections.abc import Callable, Generator
from pathlib import Path
from types import FrameType

import pytest

from taskobs.protocol.frames import PROTOCOL, FrameKind, encode, pack, unpack
from taskobs.relay_client import connection, outbox
from taskobs.relay_client.client import RelayClient
from tests.support.relay_peer import PATIENCE, Beside, Connection, Peer


@pytest.fixture
def client(peer: Peer) -> Generator[RelayClient]:
    """Give a client that has not connected yet."""
    client = RelayClient(peer.address, lambda: {"role": "worker"}, idle_thread=False)
    yield client
    client.close()


@pytest.fixture
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a client connect as often as it likes."""
    monkeypatch.setattr(connection, "_TRY_EVERY", 0.0)


def key(number: int) -> bytes:
    return number.to_bytes(24, "big")


def within_the_client(frame: FrameType | None) -> bool:
    """Tell whether a signal found the client at work, and not a lock of coverage's taken."""
    return frame is not None and "/taskobs/relay_client/" in frame.f_code.co_filename


def resident() -> int:
    """Give the bytes that this process has in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def dropped(client: RelayClient, kind: FrameKind) -> int:
    """Give how many frames had no room in the outbox, and were not told to the relay yet."""
    return client._channel.outbox.dropped[kind]  # pyright: ignore[reportPrivateUsage]


# What is sent.


def test_nothing_happens_before_the_first_frame(peer: Peer, client: RelayClient) -> None:
    """A process that sends nothing doesn't connect, not even to send CLOSE."""
    assert client.close_gracefully(5)
    assert peer.listener is not None
    peer.listener.settimeout(0)
    with pytest.raises(BlockingIOError):
        peer.accept()


def test_a_connection_begins_with_who_it_is(peer: Peer, client: RelayClient) -> None:
    """The first frame says whose the rest is; then all comes in the order in which it was sent."""
    client.started(key(1), b"one")
    client.send(FrameKind.LOG, b"two")
    client.ended(key(1), b"three")
    relay = peer.accept()
    relay.wait_for(FrameKind.END)
    hello = unpack(relay.frames[0].payload)
    assert (hello["v"], hello["pid"], hello["role"]) == (PROTOCOL, os.getpid(), "worker")
    assert len(hello["client"]) == 16
    assert relay.frames[1:] == [
        (FrameKind.START, b"one"),
        (FrameKind.LOG, b"two"),
        (FrameKind.END, b"three"),
    ]


def test_unexpected_things_in_the_hello_do_no_harm(peer: Peer) -> None:
    """A resource holds whatever the user gave; what tells of the process may fail."""
    unexpected = RelayClient(peer.address, lambda: {"resource": {"a": object(), "b": "\ud800"}})
    unexpected.open()
    assert unpack(peer.accept().wait_for(FrameKind.HELLO)[0].payload)["resource"]["b"] == "?"
    unexpected.close()

    def fail() -> dict[str, object]:
        raise ValueError("not yet known")

    failing = RelayClient(peer.address, fail)
    failing.open()
    assert unpack(peer.accept().wait_for(FrameKind.HELLO)[0].payload)["pid"] == os.getpid()
    failing.close()


# A relay that does not keep up.


def fill(client: RelayClient, size: int = 600) -> int:
    """Send until nothing more can be written, and some."""
    sent = 0
    while not client._channel.outbox.waiting:  # pyright: ignore[reportPrivateUsage]
        client.send(FrameKind.END, b"x" * size)
        sent += 1
        assert sent < 100_000
    return sent


@pytest.mark.parametrize("accepted", [True, False])
def test_a_relay_that_never_reads_delays_nothing(
    peer: Peer, client: RelayClient, *, accepted: bool
) -> None:
    """One short wait, then none; memory is bounded, and what doesn't fit is counted."""
    client.open()
    if accepted:
        peer.accept()
    fill(client)
    before, began = resident(), time.monotonic()
    for _ in range(10_000):
        client.send(FrameKind.END, b"x" * 1800)
    assert time.monotonic() - began < 100  # a wait of 20 ms for each would take 200 s
    assert resident() - before < 2.5 * outbox.MAX_BYTES
    assert dropped(client, FrameKind.END) > 4_000
    began = time.monotonic()
    assert not client.flush(0.2)
    assert not client.close_gracefully(0.2)
    assert time.monotonic() - began < 20


def test_many_small_frames_are_bounded_too(
    peer: Peer, client: RelayClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A frame takes more memory than it has bytes."""
    monkeypatch.setattr(outbox, "MAX_FRAMES", 2_000)
    client.open()
    fill(client)
    for _ in range(outbox.MAX_FRAMES * 3 // 2):
        client.send(FrameKind.END, b"")
    assert 1_900 < len(client._channel.outbox.waiting) <= 2_000  # pyright: ignore[reportPrivateUsage]
    assert peer


def test_what_was_dropped_is_reported_when_there_is_room(peer: Peer, client: RelayClient) -> None:
    """The relay counts it; what had room arrives whole and in order, once it reads again."""
    client.open()
    relay = peer.accept()
    total = 10_000
    for number in range(total):
        client.ended(key(number), number.to_bytes(1200, "big"))
    number = dropped(client, FrameKind.END)
    assert number > 0
    with Beside(lambda: relay.wait_for(FrameKind.DROPPED)):
        assert client.settle(60)
    numbers = [int.from_bytes(payload, "big") for payload in relay.numbered]
    assert numbers == list(range(total - number))
    assert [unpack(frame.payload) for frame in relay.of(FrameKind.DROPPED)] == [{"END": number}]


def test_starts_make_room_for_ends(peer: Peer, client: RelayClient) -> None:
    """An END says all that a START says."""
    client.open()
    fill(client)
    for number in range(15_000):
        client.started(key(number), b"x" * 600)
    waiting = client._channel.outbox.waiting  # pyright: ignore[reportPrivateUsage]
    assert len(waiting) <= outbox.MAX_FRAMES // 2 + 64
    before = len(waiting)
    client.ended(key(1), b"end")
    assert len(waiting) == before + 1
    assert dropped(client, FrameKind.END) == 0
    assert peer


def test_a_frame_of_any_allowed_size_arrives(peer: Peer, client: RelayClient) -> None:
    """It is written in parts, as the socket takes them; nothing comes in between."""
    big = os.urandom(3_000_000)
    client.send(FrameKind.ENVELOPE, big)
    relay = peer.accept()
    with Beside(lambda: relay.wait_for(FrameKind.END)):
        client.ended(key(1), b"after")
        assert client.settle(60)
    assert relay.frames[1:] == [(FrameKind.ENVELOPE, big), (FrameKind.END, b"after")]


def test_a_frame_that_is_too_long_is_dropped_and_counted(peer: Peer, client: RelayClient) -> None:
    """The relay would hang up on it."""
    client.send(FrameKind.ENVELOPE, bytes(5_000_000))
    client.send(FrameKind.END, b"end")
    relay = peer.accept()
    relay.wait_for(FrameKind.DROPPED)
    assert [frame.kind for frame in relay.frames] == [
        FrameKind.HELLO,
        FrameKind.DROPPED,
        FrameKind.END,
    ][:1] + [frame.kind for frame in relay.frames[1:]]
    assert relay.numbered == [b"end"]
    assert unpack(relay.of(FrameKind.DROPPED)[0].payload) == {"ENVELOPE": 1}


def test_the_relay_forgets_a_span_whose_end_was_dropped(peer: Peer, client: RelayClient) -> None:
    """It was told that the span is open, and would take it for lost; it is counted as dropped."""
    client.started(key(1), b"start")
    relay = peer.accept()
    relay.wait_for(FrameKind.START)
    total = 0
    while not dropped(client, FrameKind.END):
        total += 1
        client.send(FrameKind.ENVELOPE, bytes(60_000))
        client.ended(key(2), bytes(60_000))
    client.ended(key(1), key(1) + bytes(400_000))
    with Beside(lambda: relay.wait_for(FrameKind.DROPPED)):
        assert client.settle(60)
    assert [frame.payload for frame in relay.of(FrameKind.FORGET)] == [key(1)]
    counts = unpack(relay.of(FrameKind.DROPPED)[0].payload)
    assert len(relay.of(FrameKind.END)) + counts["END"] == total + 1
    assert len(relay.of(FrameKind.ENVELOPE)) + counts.get("ENVELOPE", 0) == total


# A relay that comes and goes.


@pytest.mark.usefixtures("no_pause")
def test_what_was_not_acknowledged_is_sent_again(peer: Peer, client: RelayClient) -> None:
    """A new relay hears who it is, which spans are open, and all that may not be safe."""
    client.started(key(1), b"start 1")
    client.started(key(2), b"start 2")
    for number in range(5):
        client.send(FrameKind.LOG, b"%d" % number)
    client.ended(key(2), b"end 2")
    first = peer.accept()
    first.wait_for(FrameKind.END)
    first.say(FrameKind.ACK, 3)
    first.close()
    client.send(FrameKind.LOG, b"5")
    second = peer.accept()
    second.wait_for(FrameKind.LOG, 3)
    sent = [(frame.kind, frame.payload) for frame in second.frames[1:]]
    assert sent == [
        (FrameKind.START, b"start 1"),
        (FrameKind.LOG, b"3"),
        (FrameKind.LOG, b"4"),
        (FrameKind.END, b"end 2"),
        (FrameKind.LOG, b"5"),
    ]
    hellos = [unpack(one.of(FrameKind.HELLO)[0].payload)["client"] for one in (first, second)]
    assert hellos[0] == hellos[1]


@pytest.mark.usefixtures("no_pause")
def test_numbers_begin_anew_with_each_connection(peer: Peer, client: RelayClient) -> None:
    """The second relay's 1 is the first frame that it was sent again."""
    for number in range(4):
        client.send(FrameKind.LOG, b"%d" % number)
    first = peer.accept()
    first.wait_for(FrameKind.LOG, 4)
    first.say(FrameKind.ACK, 2)
    first.close()
    client.send(FrameKind.LOG, b"4")
    second = peer.accept()
    second.wait_for(FrameKind.LOG, 3)
    second.say(FrameKind.ACK, 1)
    second.close()
    client.send(FrameKind.LOG, b"5")
    third = peer.accept()
    third.wait_for(FrameKind.LOG, 3)
    assert third.numbered == [b"3", b"4", b"5"]


@pytest.mark.usefixtures("no_pause")
def test_a_frame_that_was_cut_is_sent_again_whole(peer: Peer, client: RelayClient) -> None:
    """A relay killed in the midst of a frame."""
    client.open()
    first = peer.accept()
    sent = fill(client)
    first.receive()
    first.close()
    with Beside(lambda: peer.accept().wait_for(FrameKind.END, sent + 1)):
        client.ended(key(1), b"last")
        assert client.settle(60)
    assert peer.connections[1].numbered == [b"x" * 600] * sent + [b"last"]


def test_a_client_does_not_storm_a_relay_that_hangs_up(peer: Peer, client: RelayClient) -> None:
    """At most ten connections a second; the frames wait meanwhile."""
    began = time.monotonic()
    accepted = 0
    assert peer.listener is not None
    peer.listener.settimeout(0.001)
    while (took := time.monotonic() - began) < 1 or accepted < 2:
        client.send(FrameKind.LOG, b"")
        with contextlib.suppress(TimeoutError):
            peer.accept().close()
            accepted += 1
    assert accepted <= 10 * took + 2


@pytest.mark.usefixtures("no_pause")
def test_what_is_kept_for_another_relay_is_bounded(peer: Peer, client: RelayClient) -> None:
    """A relay that reads and never acknowledges: the oldest are let go."""
    client.open()
    relay = peer.accept()

    def read() -> None:
        relay.wait_for(FrameKind.END, 10_000)

    with Beside(read):
        for number in range(10_000):
            client.ended(key(number), b"x" * 600)
            client.settle(1)
    kept = client._channel.outbox._kept  # pyright: ignore[reportPrivateUsage]
    assert 0 < sum(map(len, kept)) <= outbox.MAX_KEPT
    relay.say(FrameKind.ACK, 10_000)
    for _ in range(65):
        client.send(FrameKind.START)
    assert not kept


def test_spans_that_never_end_are_forgotten_in_time(peer: Peer, client: RelayClient) -> None:
    """Somebody's bug must not eat the memory."""
    client.open()
    relay = peer.accept()
    with Beside(relay.read_to_the_end):
        for number in range(12_000):
            client.started(key(number), b"x" * 600)
        held = client._channel.outbox._open  # pyright: ignore[reportPrivateUsage]
        assert len(held) <= outbox.MAX_OPEN
        assert sum(map(len, held.values())) <= outbox.MAX_OPEN_BYTES
        assert key(11_999) in held
        client.close()


def test_nobody_listens_any_more(peer: Peer) -> None:
    """What the relay may not have got is given back, and nothing is kept."""
    client = RelayClient(peer.address, dict, idle_thread=False)
    client.ended(key(1), b"with the relay, perhaps")
    client.send(FrameKind.ENVELOPE, b"mine")
    client.send(FrameKind.ENVELOPE, b"another's")
    peer.accept().wait_for(FrameKind.ENVELOPE, 2)
    assert client.undelivered(FrameKind.END) == []
    peer.stop_listening()
    peer.connections[0].close()
    time.sleep(0.1)  # ten connections a second
    client.ended(key(2), b"after")
    assert client.unavailable
    client.ended(key(3), b"later")
    assert client.undelivered(FrameKind.END) == [b"with the relay, perhaps", b"after", b"later"]
    assert client.undelivered(FrameKind.ENVELOPE, b"mine") == [b"mine"]
    assert client.undelivered(FrameKind.ENVELOPE) == [b"another's"]
    assert client.undelivered(FrameKind.END) == []
    assert not client.flush(5)
    assert not client.close_gracefully(5)


@pytest.mark.parametrize("address", ["/nowhere/at/all", "x" * 500, "with\0null", ""])
def test_an_address_where_nobody_ever_was(address: str) -> None:
    """As gone as one that has closed."""
    client = RelayClient(address, dict)
    client.send(FrameKind.LOG, b"record")
    assert client.unavailable
    assert client.undelivered(FrameKind.LOG) == [b"record"]


def test_a_lack_of_descriptors_passes(
    peer: Peer, client: RelayClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No socket can be made now: that says nothing of the relay."""

    def fail(*_: object) -> object:
        raise OSError(errno.EMFILE, "too many")

    with monkeypatch.context() as patched:
        patched.setattr("_socket.socket", fail)
        client.send(FrameKind.LOG, b"0")
    assert not client.unavailable
    time.sleep(0.1)  # ten tries a second
    client.send(FrameKind.LOG, b"1")
    assert peer.accept().wait_for(FrameKind.LOG, 2)


# A relay that is none.


@pytest.mark.usefixtures("no_pause")
@pytest.mark.parametrize(
    "reply",
    [
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"\xff" * 100,
        encode(FrameKind.ACK, b"\x91" * 900),
        encode(FrameKind.ACK, pack("many")),
        encode(FrameKind.ACK, pack(None)),
        encode(FrameKind.FLUSHED, b""),
        encode(FrameKind.STATUS_REPLY, bytes(2_000)),
    ],
)
def test_nonsense_ends_the_connection_only(peer: Peer, client: RelayClient, reply: bytes) -> None:
    """The frames go to the next relay."""
    client.send(FrameKind.LOG, b"record")
    first = peer.accept()
    first.wait_for(FrameKind.LOG)
    first.wire.sendall(reply)
    end = time.monotonic() + PATIENCE
    while not peer.called() and time.monotonic() < end:
        client.flush(0.05)
    second = peer.accept()
    second.wait_for(FrameKind.LOG)
    assert second.numbered == [b"record"]


@pytest.mark.parametrize("number", [-1, 0, 1 << 62, True])
def test_wrong_numbers_do_no_harm(peer: Peer, client: RelayClient, number: int) -> None:
    """An ACK of what was never sent."""
    client.send(FrameKind.LOG, b"record")
    relay = peer.accept()
    relay.wait_for(FrameKind.LOG)
    relay.say(FrameKind.ACK, number)
    relay.say(FrameKind.FLUSHED, min(number, 0))
    relay.say(FrameKind.HELLO, number)
    assert not client.flush(0.05)
    client.send(FrameKind.LOG, b"next")
    relay.wait_for(FrameKind.LOG, 2)


def test_a_relay_that_never_stops_talking_delays_nothing(peer: Peer, client: RelayClient) -> None:
    """What is read at once is bounded."""
    client.open()
    relay = peer.accept()
    stop = threading.Event()

    def talk() -> None:
        relay.wire.settimeout(0.05)
        while not stop.is_set():
            with contextlib.suppress(OSError):
                relay.wire.sendall(encode(FrameKind.ACK, pack(1)) * 1_000)

    with Beside(talk):
        began = time.monotonic()
        for _ in range(1_000):
            client.send(FrameKind.LOG, b"")
        took = time.monotonic() - began
        stop.set()
    assert took < 60


def test_an_idle_process_finds_out_that_the_relay_was_restarted(
    peer: Peer, client: RelayClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the first relay may not have saved goes to the second, though nothing is sent."""
    monkeypatch.setattr(connection, "_TRY_EVERY", 0.0)
    client.started(key(1), b"start")
    client.send(FrameKind.LOG, b"record")
    first = peer.accept()
    first.wait_for(FrameKind.LOG)
    first.close()
    client.open()
    second = peer.accept()
    second.wait_for(FrameKind.LOG)
    assert second.frames[1:] == [(FrameKind.START, b"start"), (FrameKind.LOG, b"record")]


# Flush and CLOSE.


def reply_to(relay: Connection, kind: FrameKind, reply: FrameKind) -> None:
    """Answer the first question of a kind."""
    question = relay.wait_for(kind)[0].payload
    relay.say(reply, unpack(question) if question else None)


def test_a_flush_waits_for_the_relay(peer: Peer, client: RelayClient) -> None:
    """All that was sent before is with the relay, and the relay says that it is out."""
    client.ended(key(1), b"end")
    relay = peer.accept()
    with Beside(lambda: reply_to(relay, FrameKind.FLUSH, FrameKind.FLUSHED)):
        assert client.flush(PATIENCE)
    assert [frame.kind for frame in relay.frames] == [
        FrameKind.HELLO,
        FrameKind.END,
        FrameKind.FLUSH,
    ]


def test_a_flush_outlives_a_relay(peer: Peer, client: RelayClient) -> None:
    """The relay dies while it is asked; the next one is asked again, and gets the rest."""
    client.ended(key(1), b"end")

    def die_and_come_back() -> None:
        first = peer.accept()
        first.wait_for(FrameKind.FLUSH)
        first.close()
        second = peer.accept()
        reply_to(second, FrameKind.FLUSH, FrameKind.FLUSHED)
        assert second.numbered == [b"end"]

    with Beside(die_and_come_back):
        assert client.flush(PATIENCE)


def test_an_old_answer_is_no_answer(peer: Peer, client: RelayClient) -> None:
    """Each flush has a number of its own."""
    client.open()
    relay = peer.accept()
    with Beside(lambda: reply_to(relay, FrameKind.FLUSH, FrameKind.FLUSHED)):
        assert client.flush(PATIENCE)
    relay.say(FrameKind.FLUSHED, 1)
    assert not client.flush(0.1)


def test_a_close_hands_over_all_that_waits(peer: Peer, client: RelayClient) -> None:
    """More than the socket holds; then the connection ends."""
    client.open()
    relay = peer.accept()
    for number in range(5_000):
        client.ended(key(number), number.to_bytes(500, "big"))
    with Beside(lambda: reply_to(relay, FrameKind.CLOSE, FrameKind.CLOSED)):
        assert client.close_gracefully(PATIENCE)
    assert [int.from_bytes(payload, "big") for payload in relay.numbered] == list(range(5_000))
    assert relay.frames[-1].kind is FrameKind.CLOSE
    assert not relay.receive()
    client.send(FrameKind.LOG, b"after the end")
    client.close_gracefully(0.1)
    assert peer.listener is not None
    peer.listener.settimeout(0)
    with pytest.raises(BlockingIOError):
        peer.accept()


def test_a_close_outlives_a_relay(peer: Peer, client: RelayClient) -> None:
    """What the first may not have saved, the second gets."""
    client.ended(key(1), b"end")

    def die_and_come_back() -> None:
        first = peer.accept()
        first.wait_for(FrameKind.CLOSE)
        first.close()
        second = peer.accept()
        reply_to(second, FrameKind.CLOSE, FrameKind.CLOSED)
        assert second.numbered == [b"end"]

    with Beside(die_and_come_back):
        assert client.close_gracefully(PATIENCE)


@pytest.mark.parametrize("ask", [RelayClient.flush, RelayClient.close_gracefully])
def test_a_question_that_nobody_answers_ends_in_time(
    peer: Peer, client: RelayClient, ask: Callable[[RelayClient, float], bool]
) -> None:
    """A stop is bounded, whatever the relay does."""
    client.ended(key(1), b"end")
    peer.accept()
    began = time.monotonic()
    assert not ask(client, 0.3)
    assert 0.25 < time.monotonic() - began < 30


# Threads, finalizers, signals, forks.


def test_eight_threads_send_at_once(peer: Peer, client: RelayClient) -> None:
    """Each frame comes once, whole, and in the order of its thread."""
    client.open()
    relay = peer.accept()
    each = 1_000

    def work(thread: int) -> None:
        for number in range(each):
            client.send(FrameKind.LOG, b"%d %d " % (thread, number) + b"x" * (number % 700))

    with Beside(lambda: relay.wait_for(FrameKind.LOG, 8 * each)):
        threads = [threading.Thread(target=work, args=(thread,)) for thread in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert client.settle(60)
    for name in range(8):
        mine = [line.split() for line in relay.numbered if line.startswith(b"%d " % name)]
        assert [int(words[1]) for words in mine] == list(range(each))


def test_a_finalizer_sends_in_the_midst_of_a_send(peer: Peer, client: RelayClient) -> None:
    """It is only added, and whoever writes takes it along."""
    client.open()
    relay = peer.accept()
    inner = client._channel.connection._socket  # pyright: ignore[reportPrivateUsage]
    assert inner is not None

    class Socket:
        """Sends a frame of its own whenever a frame is sent, as a finalizer might."""

        def __init__(self) -> None:
            self.more = 5

        def send(self, data: bytes, flags: int) -> int:
            if self.more:
                self.more -= 1
                client.send(FrameKind.LOG, b"inner %d" % self.more)
            assert inner is not None
            return inner.send(data, flags)

        def __getattr__(self, name: str) -> object:
            return getattr(inner, name)

    vars(client._channel.connection)["_socket"] = Socket()  # pyright: ignore[reportPrivateUsage]
    client.send(FrameKind.LOG, b"outer")
    relay.wait_for(FrameKind.LOG, 6)
    assert relay.numbered == [b"outer", *(b"inner %d" % left for left in (4, 3, 2, 1, 0))]


def test_garbage_that_sends_as_it_is_collected(peer: Peer, client: RelayClient) -> None:
    """A cycle is collected at any allocation, also within the client's own."""

    class Cycle:
        def __init__(self) -> None:
            self.me = self

        def __del__(self) -> None:
            client.send(FrameKind.LOG, b"garbage")

    client.open()
    relay = peer.accept()
    before = gc.get_threshold()
    gc.set_threshold(5)
    try:
        with Beside(lambda: relay.wait_for(FrameKind.LOG, 1_000)):
            for _ in range(500):
                Cycle()
                client.send(FrameKind.LOG, b"x" * 100)
            gc.collect()
            assert client.settle(60)
    finally:
        gc.set_threshold(*before)
    assert relay.numbered.count(b"garbage") == 500


class StruckError(Exception):
    """What a signal handler raises, as that of a soft time limit does."""


@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")  # struck before it had a name
def test_an_exception_that_strikes_anywhere_loses_nothing(  # noqa: C901, PLR0915  # two sides, one story
    peer: Peer, client: RelayClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A soft time limit raises between any two calls. The task gets it; the relay gets the rest."""
    monkeypatch.setattr(connection, "_TRY_EVERY", 0.0)
    # Python 3.10 lets one strike where a writer lays down its pen: the next one takes it, but not
    # before more was sent here than an outbox holds.
    monkeypatch.setattr("taskobs.relay_client.channel._STUCK", 0.02)
    done: set[bytes] = set()
    stop = threading.Event()

    def serve(relay: Connection) -> None:
        relay.read_to_the_end()
        done.update(relay.numbered)

    def accept() -> None:
        threads: list[threading.Thread] = []
        last = False
        while not last:
            last = stop.is_set()
            with contextlib.suppress(TimeoutError):
                while True:
                    threads.append(threading.Thread(target=serve, args=(peer.accept(),)))
                    threads[-1].start()
        for thread in threads:
            thread.join()

    def strike(_: int, frame: FrameType | None) -> None:
        if within_the_client(frame):
            raise StruckError

    struck, sent = 0, 0

    def work() -> None:
        nonlocal sent
        signal.setitimer(signal.ITIMER_REAL, 0.0003 + (sent % 97) * 1e-6, 0.000101)
        for _ in range(40):
            sent += 1
            client.ended(key(sent), b"%d" % sent)
        signal.setitimer(signal.ITIMER_REAL, 0)

    previous = signal.signal(signal.SIGALRM, strike)
    assert peer.listener is not None
    peer.listener.settimeout(0.1)
    with Beside(accept):
        try:
            while struck < 150 and sent < 30_000:
                before = struck
                struck += 1
                with contextlib.suppress(StruckError):
                    work()
                    struck = before
                signal.setitimer(signal.ITIMER_REAL, 0)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, previous)
        client.send(FrameKind.LOG, b"last")
        assert client.settle(60)
        client.close()
        stop.set()
    assert struck > 20
    assert b"last" in done
    # The frame of the very call that was struck may not have come as far as the outbox.
    assert len(done) >= sent - struck


def test_a_writer_that_was_struck_dead_is_replaced(
    peer: Peer, client: RelayClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Should an exception ever leave one behind, it is not for long; one that works goes on."""
    client.open()
    writer = client._channel._writer  # pyright: ignore[reportPrivateUsage]
    clock = iter((100.0, 104.0, 108.0, 112.0, 114.0))
    writer["writer"] = object()
    with monkeypatch.context() as patched:
        patched.setattr("taskobs.relay_client.channel.time.monotonic", lambda: next(clock))
        client.send(FrameKind.LOG, b"0")
        client.send(FrameKind.LOG, b"1")
        client._channel.connection.writes += 1  # pyright: ignore[reportPrivateUsage]
        client.send(FrameKind.LOG, b"2")
        client.send(FrameKind.LOG, b"3")
        assert writer
        client.send(FrameKind.LOG, b"4")
        assert not writer
    client.send(FrameKind.LOG, b"5")
    relay = peer.accept()
    relay.wait_for(FrameKind.LOG, 6)
    assert relay.numbered == [b"0", b"1", b"2", b"3", b"4", b"5"]


def test_a_signal_handler_sends(peer: Peer, client: RelayClient) -> None:
    """In the midst of a send of the same thread."""
    client.open()
    relay = peer.accept()
    handled = 0

    def handle(_: int, frame: FrameType | None) -> None:
        nonlocal handled
        if within_the_client(frame):
            handled += 1
            client.send(FrameKind.LOG, b"handler")

    previous = signal.signal(signal.SIGALRM, handle)
    signal.setitimer(signal.ITIMER_REAL, 0.001, 0.0005)
    try:
        with Beside(lambda: relay.wait_for(FrameKind.LOG, 3_000)):
            for _ in range(3_000):
                client.send(FrameKind.LOG, b"task")
            signal.setitimer(signal.ITIMER_REAL, 0)
            assert client.settle(60)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
    relay.wait_for(FrameKind.LOG, 3_000 + handled)
    assert relay.numbered.count(b"handler") == handled > 0


def test_the_socket_is_not_inherited_by_programs(peer: Peer, client: RelayClient) -> None:
    """What a task starts has nothing of it."""
    client.open()
    peer.accept()
    assert not os.get_inheritable(client._channel.connection.fileno())  # pyright: ignore[reportPrivateUsage]
