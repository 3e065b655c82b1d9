"""A real relay in a process of its own, and what its tests say to it."""

from __future__ import annotations

import itertools
import json
import os
import resource
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from taskobs.protocol import envelopes, frames
from taskobs.protocol.frames import PROTOCOL, FrameKind, encode, pack
from taskobs.protocol.shared_memory import SharedMemory
from tests.support.relay_peer import PATIENCE, Connection

if TYPE_CHECKING:
    from typing_extensions import Self

    from taskobs.testing.receiver import Receiver

RESOURCE: dict[str, str | int] = {"service.name": "shop", "process.pid": 7}
_numbers = itertools.count(1)


class Client(Connection):
    """A process of the worker, as the relay hears it."""

    def __init__(self, address: str, *, client: bytes = b"") -> None:
        wire = socket.socket(socket.AF_UNIX)
        wire.connect(address)
        super().__init__(wire)
        self.client = client or secrets.token_bytes(16)

    def hello(self, **changes: object) -> Self:
        said: dict[str, object] = {
            "v": PROTOCOL,
            "pid": os.getpid(),
            "role": "pool child",
            "resource": RESOURCE,
            "schema_url": "http://schema",
            "client": self.client,
            "name": "celery@host",
        }
        self.say(FrameKind.HELLO, said | changes)
        return self

    def raw(self, kind: FrameKind, payload: bytes = b"") -> None:
        self.wire.sendall(encode(kind, payload))

    def flush(self) -> None:
        """Wait until the relay has sent all that it has."""
        number = next(_numbers)
        self.say(FrameKind.FLUSH, number)
        while pack(number) not in [frame.payload for frame in self.of(FrameKind.FLUSHED)]:
            assert self.receive(), "hung up"

    def close_gracefully(self) -> None:
        self.raw(FrameKind.CLOSE)
        self.wait_for(FrameKind.CLOSED)
        self.close()

    def acknowledged(self, number: int) -> None:
        """Wait until so many numbered frames are safe."""
        while pack(number) not in [frame.payload for frame in self.of(FrameKind.ACK)]:
            assert self.receive(), "hung up"

    def status(self) -> dict[str, Any]:
        before = len(self.of(FrameKind.STATUS_REPLY))
        self.raw(FrameKind.STATUS)
        counts: dict[str, Any] = frames.unpack(
            self.wait_for(FrameKind.STATUS_REPLY, before + 1)[-1].payload
        )
        return counts

    def hung_up(self) -> bool:
        """Wait until the relay has ended this connection."""
        self.read_to_the_end()
        return True


def addressed(dsn: str, envelope: bytes) -> bytes:
    """Return the payload of an ENVELOPE frame for a Sentry."""
    return envelopes.prefix(pack({"dsn": dsn, "options": {}})) + envelope


class RelayProcess:
    """``python -m taskobs.relay``, started as a worker does; ended at the end of a ``with``."""

    def __init__(
        self, receiver: Receiver | None, *, memory: bool = False, **configuration: object
    ) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="relay-"))
        self.address = str(self.directory / "s")
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(self.address)
        self.listener.listen(64)
        self.memory = SharedMemory.create() if memory else None
        endpoint = f"{receiver.endpoint}/v1/traces" if receiver else "http://127.0.0.1:9/v1/traces"
        self.configuration = {
            "worker": "celery@host",
            "parent": os.getpid(),
            "exporter": {"protocol": "http/protobuf", "endpoint": endpoint, "headers": None},
            "spool": None,
            "grace": PATIENCE,
        } | configuration
        self.start()

    def start(
        self,
        *,
        text: str | None = None,
        worker: str = "celery@host",
        limits: Mapping[int, int] | None = None,
    ) -> None:
        """Start the process; ``limits`` are soft limits of ``resource``, by number."""
        descriptors = [self.listener.fileno()]
        command = [sys.executable, "-m", "taskobs.relay", "--listen-fd", str(*descriptors)]
        command += ["--worker", worker]
        if self.memory is not None:
            descriptors.append(self.memory.descriptor)
            command += ["--memory-fd", str(self.memory.descriptor)]
        with (self.directory / "log").open("ab") as log:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                pass_fds=descriptors,
                start_new_session=True,
                preexec_fn=partial(_set_limits, limits or {}),  # noqa: PLW1509  # no threads here
            )
        assert self.process.stdin is not None
        with self.process.stdin as stdin:
            stdin.write((json.dumps(self.configuration) if text is None else text).encode())

    @property
    def log(self) -> str:
        return (self.directory / "log").read_text()

    @property
    def running(self) -> bool:
        return self.process.poll() is None

    def rss(self) -> float:
        """Megabytes that are resident; needs /proc."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        line = next(line for line in status.splitlines() if line.startswith("VmRSS"))
        return int(line.split()[1]) / 1024

    def client(self, **options: Any) -> Client:
        """A connection without a word yet."""
        return Client(self.address, **options)

    def worker(self) -> Client:
        """The connection of the worker's parent; by its pid, that is this process."""
        return self.client().hello(role="worker")

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def wait(self) -> int:
        return self.process.wait(PATIENCE * 2)

    def restart(self) -> None:
        """Kill it, and start another one on the same socket, as a worker does."""
        self.signal(signal.SIGKILL)
        self.wait()
        self.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _kind: object, error: object, _traceback: object) -> None:
        self.process.kill()
        self.process.wait()
        self.listener.close()
        if self.memory is not None:
            self.memory.close()
        if error is not None:
            print(self.log)  # noqa: T201  # pytest shows it with the failure
        shutil.rmtree(self.directory)


def _set_limits(limits: Mapping[int, int]) -> None:
    for number, soft in limits.items():
        resource.setrlimit(number, (soft, resource.getrlimit(number)[1]))


class Forked:
    """A process of its own that connects, says what it is told to, and waits to be killed."""

    def __init__(self, relay: RelayProcess, *said: tuple[FrameKind, bytes]) -> None:
        script = (
            "import socket, sys\n"
            "wire = socket.socket(socket.AF_UNIX); wire.connect(sys.argv[1])\n"
            "wire.sendall(sys.stdin.buffer.read(int(sys.argv[2])))\n"
            "sys.stdin.buffer.read()\n"
        )
        hello: dict[str, object] = {
            "v": PROTOCOL,
            "pid": 0,
            "role": "pool child",
            "resource": RESOURCE,
            "schema_url": "",
            "client": secrets.token_bytes(16),
            "name": "",
        }
        data = b"".join(encode(*one) for one in ((FrameKind.HELLO, pack(hello)), *said))
        command = [sys.executable, "-c", script, relay.address, str(len(data))]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE)
        assert self.process.stdin is not None
        self.process.stdin.write(data)
        self.process.stdin.flush()

    @property
    def pid(self) -> int:
        return self.process.pid

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        if self.process.stdin is not None:
            self.process.stdin.close()


class Writer:
    """A process of its own that tells the relay through memory, and waits to be killed."""

    SCRIPT = """
import sys
from taskobs.relay_client.client import RelayClient
from taskobs.protocol.frames import FrameKind, Splitter
from taskobs.protocol.shared_memory import SharedMemory

hello = {"role": "pool child", "name": "", "resource": {"service.name": "shop"}, "schema_url": ""}
client = RelayClient(sys.argv[1], lambda: hello, memory=SharedMemory(int(sys.argv[2])))
splitter = Splitter()
while data := sys.stdin.buffer.raw.read(65536):
    for kind, payload in splitter.feed(data):
        if kind is FrameKind.START:
            client.started(payload[:24], payload)
        elif kind is FrameKind.END:
            client.ended(payload[:24], payload)
        elif kind is FrameKind.LOG:
            client.send(FrameKind.LOG, payload)
        elif kind is FrameKind.CLOSE:
            client.close_gracefully(60)
        else:
            print(client._channel.connection.connections, client._slot is not None, flush=True)
"""

    def __init__(self, relay: RelayProcess) -> None:
        assert relay.memory is not None
        descriptor = relay.memory.descriptor
        command = [sys.executable, "-c", self.SCRIPT, relay.address, str(descriptor)]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, pass_fds=[descriptor]
        )

    def tell(self, *said: tuple[FrameKind, bytes]) -> tuple[int, bool]:
        """Have it tell; return how often it has connected, and whether it has a slot."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        data = b"".join(encode(*one) for one in (*said, (FrameKind.STATUS, b"")))
        self.process.stdin.write(data)
        self.process.stdin.flush()
        connections, slot = self.process.stdout.readline().split()
        return int(connections), slot == b"True"

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()


def wait_until_true(condition: Any, timeout: float = PATIENCE) -> None:
    """Look until it is true; fail after ``timeout`` seconds."""
    end = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < end, "it did not come true"
        time.sleep(0.02)
