"""A relay's client in forked children, and in a process that gevent has patched."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Generator
from pathlib import Path

import pytest

from taskobs.protocol import shared_memory
from taskobs.protocol.frames import FrameKind, unpack
from taskobs.protocol.shared_memory import SharedMemory
from taskobs.relay_client.client import RelayClient
from tests.support.paths import ROOT
from tests.support.relay_peer import Beside, Peer

HELLO: dict[str, object] = {"role": "child"}


@pytest.fixture
def client(peer: Peer) -> Generator[RelayClient]:
    """Give a client that has not connected yet."""
    client = RelayClient(peer.address, lambda: {"role": "worker"}, idle_thread=False)
    yield client
    client.close()


@pytest.fixture
def shared() -> Generator[SharedMemory]:
    """Give memory that the client shares with a relay."""
    if not hasattr(os, "memfd_create"):
        pytest.skip("needs memfd_create(2)")
    made = SharedMemory.create()
    assert made is not None
    yield made
    made.close()


def key(number: int) -> bytes:
    return number.to_bytes(24, "big")


def in_a_fork(work: Callable[[], object]) -> int:
    """Run something in a forked child; give its exit code."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of forks beside threads
def test_a_forked_child_is_a_client_of_its_own(peer: Peer, client: RelayClient) -> None:
    """It has the parent's descriptor no more, sends nothing of the parent's, and its own once."""
    client.started(key(1), b"the parent's")
    parents = peer.accept()
    parents.wait_for(FrameKind.START)

    descriptor = client._channel.connection.fileno()  # pyright: ignore[reportPrivateUsage]

    def child() -> None:
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(descriptor)
        client.ended(key(2), b"the child's")
        client.close()

    assert in_a_fork(child) == 0
    childs = peer.accept()
    childs.read_to_the_end()
    assert [frame.kind for frame in childs.frames] == [FrameKind.HELLO, FrameKind.END]
    hello = unpack(childs.frames[0].payload)
    assert hello["pid"] != os.getpid()
    assert hello["client"] != unpack(parents.frames[0].payload)["client"]
    client.ended(key(1), b"still here")
    parents.wait_for(FrameKind.END)
    assert parents.numbered == [b"still here"]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of forks beside threads
def test_a_child_forked_in_the_midst_of_a_write(peer: Peer, client: RelayClient) -> None:
    """Another thread was the writer: in the child there is none."""
    client.open()
    peer.accept().wait_for(FrameKind.HELLO)
    client._channel._writer["writer"] = object()  # pyright: ignore[reportPrivateUsage]
    client.send(FrameKind.LOG, b"waits")

    def child() -> None:
        client.send(FrameKind.LOG, b"the child's")
        client.close()

    assert in_a_fork(child) == 0
    childs = peer.accept()
    childs.read_to_the_end()
    assert childs.numbered == [b"the child's"]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of forks beside threads
def test_the_relay_sees_the_parent_end_though_its_children_live(peer: Peer) -> None:
    """No child holds the parent's end of the socket open."""
    client = RelayClient(peer.address, dict)
    client.open()
    parents = peer.accept()
    parents.wait_for(FrameKind.HELLO)
    ready, wait = os.pipe(), os.pipe()

    def child() -> None:
        os.write(ready[1], b"x")
        os.read(wait[0], 1)

    with Beside(lambda: in_a_fork(child)):
        os.read(ready[0], 1)
        client.close()
        assert not parents.receive()
        os.write(wait[1], b"x")
    for descriptor in (*ready, *wait):
        os.close(descriptor)


def test_a_forked_child_takes_a_slot_of_its_own(shared: SharedMemory, peer: Peer) -> None:
    """Neither writes where the other one does."""
    client = RelayClient(peer.address, lambda: HELLO, memory=shared)
    client.send(FrameKind.LOG, b"parent")
    assert in_a_fork(lambda: client.send(FrameKind.LOG, b"child")) == 0
    client.send(FrameKind.LOG, b"parent")
    assert shared.taken() == [0, 1]
    first, second = (shared.read_word(index, shared_memory.PID) for index in (0, 1))
    assert first == os.getpid() != second
    client.close()


def test_greenlets_share_a_client() -> None:
    """In a process that gevent has patched: nobody waits for the hub, nobody's frame is torn."""
    pytest.importorskip("gevent")
    script = Path(__file__).with_name("relay_gevent_script.py")
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(script)],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split() == ["sent", "idle", "stuck", "fork"]
