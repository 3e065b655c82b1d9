"""A process patched by gevent, in which greenlets share a client; run by test_relay_client."""

from gevent import monkey  # type: ignore[import-untyped]

monkey.patch_all()

import _socket  # noqa: E402
import os  # noqa: E402
import tempfile  # noqa: E402
import time  # noqa: E402
from contextlib import suppress  # noqa: E402
from typing import Any  # noqa: E402

import gevent  # noqa: E402

from taskobs.protocol.frames import FrameKind, Splitter, encode, pack  # noqa: E402
from taskobs.relay_client.client import RelayClient  # noqa: E402

EACH = 300


def serve(listener: _socket.socket, expected: int) -> int:
    """Read as a process of its own does; give how many records came, each thread's in order."""
    wire = _socket.socket(fileno=listener._accept()[0])  # type: ignore[attr-defined]
    splitter = Splitter()
    records: list[bytes] = []
    while len(records) < expected:
        data = wire.recv(65_536)
        if not data:
            return 1
        for kind, payload in splitter.feed(data):
            if kind is FrameKind.LOG:
                records.append(payload)
    with suppress(OSError):  # it may have ended by now
        wire.send(encode(FrameKind.ACK, pack(expected)))
    last: dict[bytes, int] = {}
    for record in records:
        name, number = record.split()[:2]
        if int(number) != last.get(name, -1) + 1:
            return 2
        last[name] = int(number)
    return 0


def turn_away(listener: _socket.socket) -> None:
    """Accept whoever has connected: the client that is stuck did so once, or once more."""
    listener.setblocking(False)  # noqa: FBT003  # the standard library's
    with suppress(BlockingIOError):
        while True:
            listener._accept()  # type: ignore[attr-defined]
    listener.setblocking(True)  # noqa: FBT003  # see above


def main() -> None:
    """Send from 50 greenlets, while idle, to a relay that does not read, and from a fork."""
    with tempfile.TemporaryDirectory() as directory:
        address = directory + "/s"
        listener = _socket.socket(_socket.AF_UNIX)
        listener.bind(address)
        listener.listen(5)
        pid = os.fork()
        if pid == 0:
            os._exit(serve(listener, 50 * EACH))
        client = RelayClient(address, dict, idle_thread=False)

        def task(name: int) -> None:
            for number in range(EACH):
                client.send(FrameKind.LOG, b"%d %d " % (name, number) + b"x" * (number % 600))
                if number % 10 == 0:
                    gevent.sleep(0)

        greenlets: list[Any] = [gevent.spawn(task, name) for name in range(50)]
        gevent.joinall(greenlets)
        assert client.settle(60)
        assert os.waitpid(pid, 0)[1] == 0
        print("sent")  # noqa: T201

        # More than a socket takes, to a relay that begins to read once this process is idle.
        idle = RelayClient(address, dict)
        for number in range(3_000):
            idle.send(FrameKind.LOG, b"idle %d " % number + b"x" * 600)
        pid = os.fork()
        if pid == 0:
            gevent.sleep(0.5)  # a greenlet of the parent's that goes on here must send nothing
            os._exit(serve(listener, 3_000))
        while (ended := os.waitpid(pid, os.WNOHANG)) == (0, 0):
            gevent.sleep(0.01)
        assert ended == (pid, 0), ended
        idle.close()
        print("idle")  # noqa: T201

        stuck = RelayClient(address, dict, idle_thread=False)
        began = time.monotonic()
        for number in range(30_000):
            stuck.send(FrameKind.LOG, b"%d" % number + b"x" * 600)
        assert time.monotonic() - began < 60
        assert not stuck.close_gracefully(0.1)
        print("stuck")  # noqa: T201

        turn_away(listener)
        pid = os.fork()
        if pid == 0:
            client.send(FrameKind.LOG, b"child 0")
            os._exit(0 if not client.unavailable else 1)
        assert serve(listener, 1) == 0
        assert os.waitpid(pid, 0)[1] == 0
        print("fork")  # noqa: T201


main()
