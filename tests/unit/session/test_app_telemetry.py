"""The app's own metrics at the end of a pool child."""

from __future__ import annotations

import pytest
from opentelemetry import metrics
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

import taskobs
from taskobs.celery.roles import Role
from taskobs.testing.receiver import Receiver


def test_a_pool_child_flushes_the_apps_meters(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """My counter is exported when the child that has added to it ends."""
    flushed: list[float] = []

    class Mine(MeterProvider):
        def force_flush(self, timeout_millis: float = 10_000) -> bool:
            flushed.append(timeout_millis)
            return True

    mine = Mine([InMemoryMetricReader()], shutdown_on_exit=False)
    monkeypatch.setattr(metrics, "get_meter_provider", lambda: mine)
    with taskobs.init(otlp_endpoint=receiver.endpoint, relay=False, strict=True) as session:
        assert session.flush(30)
        assert not flushed, "other processes flush it themselves"
        session.became(Role.POOL_CHILD)
        session.process_ending()
    assert flushed
