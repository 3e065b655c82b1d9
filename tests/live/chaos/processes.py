"""The processes of a worker, as the system lists them."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING

from tests.live.process import LIMIT, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import TracebackType

    from typing_extensions import Self

RELAY = re.compile(r"taskobs[. ]relay")
"""A checkout may have the word in its path."""
TRACKER = "semaphore_tracker"
"""A process that billiard starts beside spawned children."""


def processes_of(parent: int) -> dict[int, str]:
    """Return the processes that ``parent`` has started and that live, with their command lines."""
    found: dict[int, str] = {}
    for listing in Path(f"/proc/{parent}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            for pid in map(int, listing.read_text().split()):
                with contextlib.suppress(OSError):
                    line = Path(f"/proc/{pid}/cmdline").read_bytes()  # empty for a zombie
                    found |= {pid: line.replace(b"\0", b" ").decode()} if line else {}
    return found


def is_relay(command: str) -> bool:
    """Tell a relay from a pool child by its command line or title."""
    return RELAY.search(command) is not None


def alive(pid: int) -> bool:
    """Whether there is such a process."""
    return Path(f"/proc/{pid}/cmdline").exists()


class WorkerProcesses:
    """The children and the relays of one worker. At the end of a ``with``, no relay is left."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.relays: set[int] = set()
        """All that were ever seen."""

    def children(self) -> list[int]:
        """Return the pool's children."""
        found = processes_of(self.pid)
        return sorted(
            pid for pid, line in found.items() if not is_relay(line) and TRACKER not in line
        )

    def find_relays(self) -> list[int]:
        """Return the relays that live now: one, or none for a moment."""
        found = processes_of(self.pid)
        relays = [pid for pid, line in found.items() if is_relay(line)]
        self.relays.update(relays)
        return relays

    def wait_relay(self) -> int | None:
        """Wait for a relay, and return its process id; None if none comes."""
        if not wait_until(lambda: bool(self.find_relays()), timeout=LIMIT):
            return None
        return self.find_relays()[0]

    def wait_relays_end(self, timeout: float) -> bool:
        """Wait until no relay lives; say whether that is so."""
        return wait_until(lambda: not any(map(alive, self.relays)), timeout=timeout)

    def __enter__(self) -> Self:
        """Give it; the processes run already."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """End relays that are left, stopped ones too."""
        self.find_relays()
        send(filter(alive, self.relays), signal.SIGKILL)


def send(pids: Iterable[int], number: signal.Signals) -> list[tuple[int, float]]:
    """Send a signal; return who got it, and when."""
    got: list[tuple[int, float]] = []
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
            got.append((pid, time.time()))
    return got
