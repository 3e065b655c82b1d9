"""What the relay keeps of each process of the worker."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from taskobs.internal import pids
from taskobs.protocol import frames
from taskobs.protocol.frames import FrameError
from taskobs.relay.tracking.acknowledgements import Source

SPAN_OVERHEAD: Final = 160
"""About how many bytes an open span takes beside its payload."""
RECONNECT: Final = 1.0
"""Seconds after a connection's end in which its process's frames may still come over another."""

Alive = Callable[[int, int], bool]


@dataclass(slots=True, eq=False, kw_only=True)
class ProcessState:
    """One process, over all of its connections."""

    client: bytes
    """A random id of 16 bytes that it sends with each connection: a pid is used again."""
    pid: int
    started: int
    """See ``pids.start_time``."""
    parent: int
    """The pid of its worker's main process; its own if it is that one."""
    role: str = ""
    name: str = ""
    resource_blob: bytes
    """Its packed resource; see ``Item``."""
    open: dict[bytes, bytes] = field(default_factory=dict[bytes, bytes])
    """The packed spans that it has started and not ended, by key; oldest first."""
    size: int = 0
    """About how many bytes they take."""
    sources: dict[bytes, tuple[Source, int]] = field(
        default_factory=dict[bytes, tuple[Source, int]]
    )
    """By key, for spans reported in shared memory: what to settle once their end is sent."""
    connections: int = 0
    closed_cleanly: bool = False
    left: float | None = None
    """When the last of its connections and its slot ended (monotonic); None while one is there."""
    left_ns: int | None = None
    """When its open spans ended, in nanoseconds since the epoch, if ``left`` doesn't say that."""

    @property
    def packed(self) -> bytes:
        """Its identity as ``Start`` stores it, for ``restored``."""
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
        """Return whether it will send no more."""
        if self.left is None:
            return False
        if self.closed_cleanly:
            return True
        # A lost connection alone doesn't say so: this relay may have closed it or been restarted,
        # and a process connects again only when it has something to send.
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
        FrameError: ``packed`` is malformed.
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
