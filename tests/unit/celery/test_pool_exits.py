"""The ends of pool processes, before there is any."""

from __future__ import annotations

from taskobs.celery.counting.pool_exits import REASONS, PoolExits
from taskobs.metrics.worker_table import WorkerTable


def test_each_reason_begins_at_zero() -> None:
    """My first pool process is killed, and Prometheus sees a counter rise: from 0 to 1."""
    table = WorkerTable()
    exits = PoolExits(table)
    exits.install()
    try:
        assert table.exits == dict.fromkeys(REASONS, 0)
    finally:
        exits.remove()
