"""The first export of a process, and what follows it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from taskobs.otel.export.first_export import FirstExport
from taskobs.otel.export.otlp_post import suits
from taskobs.testing.receiver import Receiver
from tests.support.recording import Recorder, tracer_provider

PLAIN = "http://127.0.0.1:4318/v1/traces"


class Exporter(SpanExporter):
    """Stands for OpenTelemetry's, and keeps what it gets."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self.names += [span.name for span in spans]
        return SpanExportResult.SUCCESS

    def shutdown(self) -> None:
        self.names.append("shut down")


@pytest.fixture
def exporter() -> Exporter:
    return Exporter()


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run without the proxies of the machine."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


def spans(*names: str) -> list[ReadableSpan]:
    recorder = Recorder()
    tracer = tracer_provider(recorder).get_tracer("t")
    for name in names:
        tracer.start_span(name).end()
    return recorder.spans


def first_export(receiver: Receiver, exporter: Exporter) -> FirstExport:
    endpoint = f"{receiver.endpoint}/v1/traces"
    return FirstExport(lambda: exporter, endpoint, {"authorization": "token"})


def test_the_second_export_goes_through_the_exporter(
    receiver: Receiver, exporter: Exporter
) -> None:
    """My web process exports again and again: OpenTelemetry's exporter does that."""
    first = first_export(receiver, exporter)
    for name in ("one", "two", "three"):
        assert first.export(spans(name)) is SpanExportResult.SUCCESS
    first.shutdown()
    assert [span.name for span in receiver.spans] == ["one"]
    assert len(receiver.requests) == 1
    assert exporter.names == ["two", "three", "shut down"]


def test_the_headers_of_the_settings_are_sent(exporter: Exporter) -> None:
    """My collector asks for a token, and it is in the first export, too, with its path."""
    asked: list[tuple[str, str | None, str | None]] = []

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            told = self.headers["authorization"], self.headers["content-type"]
            asked.append((self.path, *told))
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None: ...  # noqa: A002  # as the base's

    with HTTPServer(("127.0.0.1", 0), Collector) as server:
        thread = Thread(target=server.handle_request)
        thread.start()
        endpoint = f"http://127.0.0.1:{server.server_port}/v1/traces?key=1"
        FirstExport(lambda: exporter, endpoint, {"authorization": "token"}).export(spans("one"))
        thread.join()
    assert asked == [("/v1/traces?key=1", "token", "application/x-protobuf")]
    assert not exporter.names


@pytest.mark.parametrize("interim", [100, 103])
def test_an_export_that_is_accepted_is_made_once(exporter: Exporter, interim: int) -> None:
    """A proxy in front of my collector sends an interim answer first: my span arrives once."""

    class Collector(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            self.send_response_only(interim)
            self.send_header("link", "</style.css>")
            self.end_headers()
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None: ...  # noqa: A002  # as the base's

    with HTTPServer(("127.0.0.1", 0), Collector) as server:
        thread = Thread(target=server.handle_request)
        thread.start()
        endpoint = f"http://127.0.0.1:{server.server_port}/v1/traces"
        first = FirstExport(lambda: exporter, endpoint, {})
        assert first.export(spans("one")) is SpanExportResult.SUCCESS
        thread.join()
    assert not exporter.names


@pytest.mark.parametrize("status", [302, 401, 503])
def test_a_refused_export_is_made_again(
    receiver: Receiver, exporter: Exporter, status: int
) -> None:
    """A collector that refuses is left to the exporter, which knows what to retry."""
    receiver.behave(status=status)
    assert first_export(receiver, exporter).export(spans("one")) is SpanExportResult.SUCCESS
    assert exporter.names == ["one"]


def test_a_dead_collector_is_left_to_the_exporter(exporter: Exporter) -> None:
    """Nobody listens: the exporter tries again, and logs it."""
    with Receiver() as receiver:
        first = first_export(receiver, exporter)
    assert first.export(spans("one")) is SpanExportResult.SUCCESS
    assert exporter.names == ["one"]


def test_many_spans_go_through_the_exporter(receiver: Receiver, exporter: Exporter) -> None:
    """A process with many spans is none that ends at once."""
    first_export(receiver, exporter).export(spans(*(["x"] * 65)))
    assert len(exporter.names) == 65
    assert not receiver.requests


@pytest.mark.parametrize(
    ("endpoint", "variable"),
    [
        ("https://collector/v1/traces", "X"),
        ("http://user:secret@collector/v1/traces", "X"),
        (PLAIN, "OTEL_EXPORTER_OTLP_COMPRESSION"),
        (PLAIN, "OTEL_EXPORTER_OTLP_TRACES_TIMEOUT"),
        (PLAIN, "OTEL_EXPORTER_OTLP_CERTIFICATE"),
        (PLAIN, "OTEL_PYTHON_EXPORTER_OTLP_HTTP_TRACES_CREDENTIAL_PROVIDER"),
        (PLAIN, "HTTP_PROXY"),
        (PLAIN, "all_proxy"),
    ],
)
def test_options_are_left_to_the_exporter(
    monkeypatch: pytest.MonkeyPatch, endpoint: str, variable: str
) -> None:
    """Whatever I set for the exporter applies to the first export, too."""
    assert suits(PLAIN)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4318")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_METRICS_TIMEOUT", "1")
    assert suits(PLAIN)
    monkeypatch.setenv(variable, "1")
    assert not suits(endpoint)


def test_a_header_that_is_not_ascii_is_left_to_the_exporter_and_not_logged(
    exporter: Exporter, caplog: pytest.LogCaptureFixture
) -> None:
    """My token has an umlaut in it, and nothing of it is in the log of my process at DEBUG."""
    caplog.set_level(logging.DEBUG, "taskobs")
    first = FirstExport(lambda: exporter, PLAIN, {"authorization": "Bearer t0kän"})
    assert first.export(spans("one")) is SpanExportResult.SUCCESS
    assert exporter.names == ["one"]
    assert "UnicodeEncodeError" in caplog.text
    assert "t0k" not in caplog.text
