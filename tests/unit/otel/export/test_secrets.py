"""What a backend repeats of what it was sent is in no line of the log."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import closing

import pytest
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from taskobs.config.settings import resolve
from taskobs.otel.export.exporter import LoggedExporter
from taskobs.otel.export.logs import LogExporterFactory
from taskobs.otel.export.metrics import OtlpSender
from taskobs.otel.export.secrets import secrets_of
from tests.support.export import Reply, backend, spans

KEY = "s3cret-of-mine"
HEADERS = {"authorization": f"Bearer {KEY}"}


SAID = "Failed to export batch code: 401, reason: unknown: %s"
"""What OpenTelemetry's exporters logged of a response, with its body (seen in 1.28)."""
SETTINGS = resolve(
    {"otlp_endpoint": "http://localhost:9", "otlp_headers": HEADERS, "logs": "otlp"}, {}
)


class Old(SpanExporter):
    """Is refused, and logs it as older releases do."""

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:  # noqa: ARG002  # as the SDK has it
        logging.getLogger(OTLPSpanExporter.__module__).error(SAID, KEY)
        return SpanExportResult.FAILURE


def test_spans_of_a_process_that_exports_by_itself(caplog: pytest.LogCaptureFixture) -> None:
    """My backend refuses the spans of a web process: the log has its words, without my token."""
    with caplog.at_level(logging.WARNING):
        exporter = LoggedExporter(Old(), "http://localhost:9", secrets_of(SETTINGS))
        exporter.export(spans("a"))
        exporter.shutdown()
    assert "unknown: ***" in caplog.text
    assert KEY not in caplog.text


def test_log_records_of_a_process_that_exports_by_itself(caplog: pytest.LogCaptureFixture) -> None:
    """The same for its log records."""
    outage, library_log = LogExporterFactory(SETTINGS).outage()
    with closing(library_log), caplog.at_level(logging.WARNING), library_log:
        logging.getLogger("opentelemetry.exporter.otlp.proto.http._log_exporter").error(SAID, KEY)
    assert outage.reason.endswith("unknown: ***")
    assert KEY not in caplog.text


def test_metrics_of_a_process_that_exports_by_itself(caplog: pytest.LogCaptureFixture) -> None:
    """The same for its metrics: newer exporters tell the status's reason, older ones the body."""
    with backend(Reply(401, body=b"Unauthorized")) as there, caplog.at_level(logging.WARNING):
        settings = resolve({"otlp_endpoint": f"http://{there.address}/?key=Unauthorized"}, {})
        sender = OtlpSender(settings, lambda: ([], Resource({})), interval=60)
        assert not sender.send()
        sender.start()
        sender.stop(10)
    assert "reason: ***" in caplog.text


def test_keys_in_variables_and_addresses_are_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    """I give my keys by OpenTelemetry's variables, or in the address: they are found there."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_HEADERS", "api-key=one%20key,x=")
    variables = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://user:pass-word@localhost:4318?key=second"}
    found = secrets_of(resolve({}, variables))
    assert {"one key", "pass-word", "second"} <= found
