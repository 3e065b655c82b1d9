"""Which store a relay has."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

from taskobs.protocol import spool_defaults
from taskobs.relay.counters import Counters
from taskobs.relay.storage.base import Released, Store, nobody
from taskobs.relay.storage.memory import MemoryStore

_log = logging.getLogger("taskobs.relay")


def open_store(
    spool: Mapping[str, object] | None,
    worker: str,
    counters: Counters,
    released: Released = nobody,
    *,
    worker_pid: int | None = None,
) -> Store:
    """Return the spool that ``{"directory", "bytes", "age"}`` asks for, or the memory.

    A directory that cannot be used costs a warning, not the telemetry. ``owner`` is the process
    id of the worker; None takes this process's parent.
    """
    if not spool:
        return MemoryStore(counters, released)
    import sqlite3  # 2 MB, which most relays have no use for

    from taskobs.relay.storage.spool.store import Spool, SpoolConfig

    try:
        config = SpoolConfig(
            Path(str(spool["directory"])),
            worker,
            bytes=int(str(spool.get("bytes") or spool_defaults.BYTES)),
            age=float(str(spool.get("age") or spool_defaults.AGE)),
            worker_pid=worker_pid,
        )
        return Spool(counters, config, released)
    except (OSError, sqlite3.Error) as error:
        _log.warning(
            "taskobs relay: the spool in %s cannot be used, what waits is kept in memory: %s",
            *(spool["directory"], error),
        )
        return MemoryStore(counters, released)
