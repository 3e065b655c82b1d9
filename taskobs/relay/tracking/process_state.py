"""A process of the worker, as the relay knows it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from taskobs.internal import pids
from taskobs.protocol import frames
from taskobs.protocol.frames import FrameError
from taskobs.relay.tracking.acknowledgements import Source

SPAN_OVERHEAD: Final = 160
"""Bytes that keeping an open span takes beside its payload, about."""
RECONNECT: Final = 1.0
"""Seconds in which what a process sent before its end may still come over another connection."""

Alive = Callable[[int, int], bool]


@dataclass(slots=True, eq=False, kw_only=True)
class ProcessState:
    """One process, over all of its connections."""

    client: bytes
    """What it calls itself, over all of its connections: 16 bytes."""
    pid: int
    started: int
    """See ``pids.start_time``."""
    parent: int
    """The pid of its worker's parent; its own if that is what it is."""
    role: str = ""
    name: str = ""
    resource_blob: bytes
    """Its resource, as ``store.Item`` has it."""
    open: dict[bytes, bytes] = field(default_factory=dict[bytes, bytes])
    """The packed spans that it has started and not ended, by key; oldest first."""
    size: int = 0
    """Bytes that they take."""
    sources: dict[bytes, tuple[Source, int]] = field(
        default_factory=dict[bytes, tuple[Source, int]]
    )
    """What to settle once they are lost and that is out, of those that are told of in memory."""
    connections: int = 0
    closed_cleanly: bool = False
    left: float | None = None
    """When the last of its connections and its slot ended, on the ledger's clock; None before."""
    left_ns: int | None = None
    """When what it had open ended, in nanoseconds since the epoch, if ``left`` does not say so."""

    @property
    def packed(self) -> bytes:
        """What ``store.Start`` keeps of it, and ``restored`` makes it of."""
        return frames.pack([self.client, self.pid, self.started, self.parent])

    def put(self, key: bytes, packed: bytes) -> int:
        """Keep an open span; return the bytes that it takes."""
        self.open[key] = packed
        size = len(packed) + SPAN_OVERHEAD
        self.size += size
        return size

    def drop(self, key: bytes) -> int:
        """Forget a span that is open here; return the bytes that it took."""
        self.sources.pop(key, None)
        size = len(self.open.pop(key)) + SPAN_OVERHEAD
        self.size -= size
        return size

    def has_ended(self, now: float, alive: Alive) -> bool:
        """Tell whether it will send no more.

        Its connections alone don't say so: they end also when this relay cuts them or is started
        anew, and a process reconnects when it has something to send.
        """
        if self.left is None:
            return False
        if self.closed_cleanly:
            return True
        return now - self.left >= RECONNECT and not alive(self.pid, self.started)


def connected(
    client: bytes, pid: int, parent: int, resource_blob: bytes, started: int = 0
) -> ProcessState:
    """Return a process that has just connected."""
    started = started or pids.start_time(pid)
    return ProcessState(
        client=client, pid=pid, started=started, parent=parent, resource_blob=resource_blob
    )


def restored(packed: bytes, resource_blob: bytes, now: float) -> ProcessState:
    """Return a process that an earlier relay knew, as not connected.

    Raises:
        FrameError: ``packed`` is not what ``Process.packed`` gave.
    """
    match frames.unpack(packed):
        case [bytes(client), int(pid), int(started), int(parent)]:
            return ProcessState(
                client=client,
                pid=pid,
                started=started,
                parent=parent,
                resource_blob=resource_blob,
                left=now,
            )
        case _:
            raise FrameError("no process of an earlier relay")
