"""Metrics that a process sends over OTLP itself."""

from __future__ import annotations

import logging

import pytest
from opentelemetry.sdk.resources import Resource

from taskobs.config.settings import resolve
from taskobs.otel.export.metrics import OtlpSender, unchanging
from tests.live.services import free_port


def test_a_collector_that_is_away_is_one_line(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """My collector is away: the log says so in a line, and no traceback shows where it is."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")
    settings = resolve({"otlp_endpoint": f"http://127.0.0.1:{free_port()}"}, {})
    sender = OtlpSender(settings, lambda: (unchanging([]), Resource({})), interval=60.0)
    sender.start()
    sender.stop(60.0)
    [line] = [
        record
        for record in caplog.records
        if record.name == "taskobs" and record.levelno >= logging.WARNING
    ]
    said, _, why = line.getMessage().partition(", trying again: ")
    assert said == "taskobs: OTLP metrics were not accepted"
    assert why
    assert line.exc_info is None


def test_the_key_in_an_endpoint_is_not_logged(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """My backend takes its key in the URL: the log says why nothing is sent, without the key."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "2")  # one retry
    address = f"http://127.0.0.1:{free_port()}/v1/metrics?key=s3cret"
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", address)
    settings = resolve({}, {"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": address})
    sender = OtlpSender(settings, lambda: (unchanging([]), Resource({})), interval=60.0)
    sender.start()
    sender.stop(60.0)
    lines = [record.getMessage() for record in caplog.records if record.levelno > logging.DEBUG]
    [line] = lines
    said, _, why = line.partition(", trying again: ")
    assert said == "taskobs: OTLP metrics were not accepted"
    assert why == "ConnectionRefusedError: Connection refused"
