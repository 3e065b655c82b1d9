"""The shop, with a task that reads what its process has to itself."""

from __future__ import annotations

import gc
from pathlib import Path

from tests.live.apps.shop import app

__all__ = ["app", "own_memory"]


@app.task
def own_memory() -> int:
    """Collect garbage as this process does in time, then sum the bytes that no other one has."""
    gc.collect()
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Private"))
