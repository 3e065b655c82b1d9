"""A worker's metrics are served where they were asked for, as soon as that can be had."""

from __future__ import annotations

import logging
from collections.abc import Generator
from contextlib import contextmanager
from urllib.request import urlopen

import pytest

pytest.importorskip("prometheus_client")  # the extra `prometheus`

from taskobs.metrics.families import Family, Sample
from taskobs.metrics.prometheus import serving
from taskobs.metrics.prometheus.serving import MetricsServer
from tests.live.process import wait_until

FAMILIES = [Family(name="celery.task.retries", kind="counter", meaning="", samples=[Sample({}, 3)])]


@contextmanager
def served(port: int = 0, earlier: int = 0) -> Generator[MetricsServer]:
    """Serve for the length of a block."""
    server = MetricsServer(lambda: FAMILIES, address="127.0.0.1", port=port, earlier=earlier)
    server.start()
    try:
        yield server
    finally:
        server.close()


def scrape(server: MetricsServer) -> str:
    with urlopen(server.url, timeout=60) as response:  # noqa: S310  # ours
        return str(response.read().decode())


def test_a_port_that_is_taken_is_served_at_once_it_is_free(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """My worker starts while the one before still stops: one line says so, then it is scraped."""
    monkeypatch.setattr(serving, "_PAUSE", 0.01)
    caplog.set_level(logging.INFO, "taskobs")
    with served() as first, served(port := first.port) as second:
        assert (second.port, second.url) == (0, "")
        first.close()
        assert wait_until(lambda: second.port == port, timeout=60)
        assert "celery_task_retries_total 3.0" in scrape(second)
    said = [record.getMessage() for record in caplog.records]
    assert [f"127.0.0.1:{port}" in line for line in said] == [True] * 3
    assert said[1].endswith("trying again")


def test_a_free_port_is_kept_by_who_takes_over(caplog: pytest.LogCaptureFixture) -> None:
    """I asked for any port, and the relay is restarted: Prometheus finds the next one there."""
    caplog.set_level(logging.INFO, "taskobs")
    with served() as first:
        port = first.port
        with served(earlier=port) as other:
            assert other.port not in {0, port}
    with served(earlier=port) as again:
        assert again.port == port
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 2, "who gets the same port has nothing new to say"
    with served(earlier=70_000) as nonsense:
        assert nonsense.port
