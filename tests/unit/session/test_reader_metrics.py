"""The app's own metric readers where the relay that exports for them is given up."""

from __future__ import annotations

import os
from collections.abc import Generator
from types import SimpleNamespace
from typing import Any, cast

import pytest
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource

from taskobs.celery.roles import Role
from taskobs.config.settings import resolve
from taskobs.otel.app import readers
from taskobs.session.metrics.by_role import Metrics
from taskobs.session.metrics.shared_counts import SharedCounts
from tests.support.export import Backend, backend
from tests.unit.relay.metrics.test_exporter import points

pytestmark = pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="needs memory of Linux")
HOUR = 3_600_000.0
ORDERS = "shop.orders"


class Relay:
    """One that can be given up."""

    carries = True
    memory = None
    pid = None

    def count_with(self, _: object) -> None: ...


def provider_for(endpoint: str) -> MeterProvider:
    exporter = OTLPMetricExporter(endpoint)
    reader = PeriodicExportingMetricReader(exporter, export_interval_millis=HOUR)
    return MeterProvider([reader], Resource({"service.name": "own"}), shutdown_on_exit=False)


class Worker:
    """A worker's main process with nothing to export but what a reader of the app's does."""

    def __init__(self, endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
        self.provider = provider_for(endpoint)
        monkeypatch.setattr(readers, "app_provider", lambda: self.provider)
        self.orders = self.provider.get_meter("shop").create_counter(ORDERS)
        self.relay = Relay()
        host = SimpleNamespace(settings=resolve({}, {}), observe=lambda: None)
        running = SimpleNamespace(connections=1)
        spans = SimpleNamespace(provider=None)
        made: Any = host, lambda: None, spans, self.relay, running
        self.metrics = Metrics(*cast("tuple[Any, Any, Any, Any, Any]", made))
        pool = SimpleNamespace(uses_semaphore=True)
        self.metrics.became(Role.WORKER, SimpleNamespace(hostname="w", pool_cls=pool))
        self.metrics.look()

    def flush(self) -> None:
        for send in self.metrics.flushes():
            send()

    def close(self) -> None:
        self.metrics.stop()
        self.provider.shutdown()


@pytest.fixture
def there() -> Generator[Backend]:
    with backend() as made:
        yield made


@pytest.fixture
def worker(there: Backend, monkeypatch: pytest.MonkeyPatch) -> Generator[Worker]:
    made = Worker(there.endpoint, monkeypatch)
    yield made
    made.close()


def orders(there: Backend) -> list[float]:
    with there.changed:
        return [points(one.body)[ORDERS][0][1] for one in there.requests]


def test_a_relay_that_is_given_up_in_a_stop_leaves_the_sums_to_the_worker(
    worker: Worker, there: Backend
) -> None:
    """No timer runs in a warm stop: what my last tasks measure arrives all the same."""
    worker.orders.add(3)
    worker.flush()
    assert orders(there) == []  # the relay exports
    worker.relay.carries = False
    worker.flush()
    assert orders(there) == [3]


def test_a_flush_sends_what_was_measured_since_the_last_second(
    worker: Worker, there: Backend
) -> None:
    """The relay was given up long ago: my worker's last second is not missing."""
    worker.relay.carries = False
    worker.orders.add(3)
    worker.metrics.tick()
    worker.orders.add(4)
    worker.flush()
    assert orders(there) == [7]


def test_only_the_main_process_exports_for_readers(there: Backend) -> None:
    """A child of my worker flushes: it sends nothing of what all processes have counted."""
    provider = provider_for(there.endpoint)
    counts = SharedCounts()
    counts.open()
    try:
        counts.take_over(provider)
        assert len(counts.readers()) == 1
        counts.after_fork()
        assert counts.readers() == []
    finally:
        counts.close()
        provider.shutdown()
