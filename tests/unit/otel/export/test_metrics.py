"""Metrics that a process sends over OTLP itself."""

from __future__ import annotations

import logging
import socket

import pytest
from opentelemetry.sdk.resources import Resource

from taskobs.config.settings import resolve
from taskobs.otel.export.metrics import OtlpSender, unchanging


def test_a_collector_that_is_away_is_one_line(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """My collector is away: the log says so in a line, and no traceback shows where it is."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    settings = resolve({"otlp_endpoint": f"http://127.0.0.1:{port}"}, {})
    sender = OtlpSender(settings, lambda: (unchanging([]), Resource({})), interval=60.0)
    sender.start()
    sender.stop(60.0)
    [line] = [
        record
        for record in caplog.records
        if record.name == "taskobs" and record.levelno >= logging.WARNING
    ]
    assert line.getMessage() == "taskobs: OTLP metrics were not accepted, trying again"
    assert line.exc_info is None
