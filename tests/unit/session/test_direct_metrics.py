"""Metrics that a process without a relay exports itself."""

from __future__ import annotations

import threading

import pytest

from taskobs.config.settings import resolve
from taskobs.session.metrics.direct_metrics import DirectMetrics
from taskobs.session.metrics.worker_metrics import WorkerMetrics

pytest.importorskip("prometheus_client")


def serving() -> list[threading.Thread]:
    return [one for one in threading.enumerate() if one.name == "taskobs-metrics-server"]


def test_nothing_is_served_after_close() -> None:
    """My session is closed: the thread that served its metrics ends, and takes no CPU time."""
    settings = resolve({"metrics_port": 0}, {})
    metrics = WorkerMetrics(settings, lambda: None, lambda: None)
    direct = DirectMetrics(settings, metrics)
    direct.start(serving=True)
    try:
        [thread] = serving()
    finally:
        direct.close()
        metrics.stop()
    thread.join(60.0)
    assert not thread.is_alive()
