"""Reads the children, the CPU time and the memory of a process from Linux."""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

RELAY: Final = re.compile(r"taskobs[. ]relay")
"""In the command line of a relay, or in its title."""


def children(pid: int) -> dict[int, str]:
    """Give the living processes that ``pid`` has started, with their command lines."""
    found: dict[int, str] = {}
    for listing in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):
            for child in map(int, listing.read_text().split()):
                with suppress(OSError):
                    line = Path(f"/proc/{child}/cmdline").read_bytes()  # empty for a zombie
                    found |= {child: line.replace(b"\0", b" ").decode()} if line else {}
    return found


def relays(pid: int) -> list[int]:
    """Give those of its children that are relays, recognised by their command lines or titles."""
    return [child for child, line in children(pid).items() if RELAY.search(line)]


def cpu(pid: int) -> float:
    """Give the CPU seconds of all threads that a process has now; 0 for one that has ended."""
    nanoseconds = 0
    for file in Path(f"/proc/{pid}/task").glob("*/schedstat"):
        with suppress(OSError):
            nanoseconds += int(file.read_text().split()[0])
    return nanoseconds / 1e9


@dataclass(frozen=True)
class Memory:
    """Megabytes (10^6 bytes) of a process."""

    resident: float
    private: float
    """Not shared with any other: what one more such process costs."""
    proportional: float
    """With what several processes share divided among them."""


def memory(pid: int) -> Memory:
    """Read the memory of a process."""
    sizes: dict[str, float] = {}
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]:
        name, size, *_ = line.split()
        sizes[name] = float(size) * 1024 / 1e6
    private = sizes["Private_Clean:"] + sizes["Private_Dirty:"]
    return Memory(sizes["Rss:"], private, sizes["Pss:"])
