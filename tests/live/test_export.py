"""OpenTelemetry's own variables say how spans travel, as the stock exporter has it."""

from __future__ import annotations

import gzip
import ssl
from collections.abc import Generator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from queue import Queue
from threading import Thread
from typing import Any

import grpc
import pytest
import trustme
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as service
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc as service_grpc

from taskobs.testing import wire
from tests.live.celery_process import Broker, LiveApp
from tests.live.process import LIMIT

PUBLISH = "result = app.add.delay(1, 2).id"


TRACES = "/v1/traces"


@dataclass(frozen=True)
class Arrival:
    """One request of an exporter."""

    path: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def names(self) -> list[str]:
        """The names of its spans."""
        return [span.name for span in wire.spans(self.body)]


@contextmanager
def collector(context: ssl.SSLContext | None = None) -> Generator[tuple[int, Queue[Arrival]]]:
    """Take OTLP over HTTP, over TLS if there is a context; gives the port and what arrives."""
    arrivals: Queue[Arrival] = Queue()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.headers.get("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
            arrivals.put(Arrival(self.path, dict(self.headers), body))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # the base's name
            """Say nothing."""

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        if context is not None:
            server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield server.server_port, arrivals
        finally:
            server.shutdown()
            thread.join()


def with_spans(arrivals: Queue[Arrival]) -> Arrival:
    """Wait for the spans; metrics go their own way, and may come first."""
    while (arrival := arrivals.get(timeout=LIMIT)).path != TRACES:
        pass
    return arrival


@pytest.fixture
def publish(live: LiveApp, file_broker: Broker) -> Any:
    """Publish from a process with these variables, and let it end as a script does."""

    def run(**env: str) -> str:
        producer = live.producer(file_broker, env=env)
        producer.run(PUBLISH)
        assert producer.close() == 0
        return live.task("add")

    return run


def test_headers_and_compression(publish: Any) -> None:
    """My vendor wants an API key in a header and likes gzip."""
    with collector() as (port, arrivals):
        task = publish(
            OTEL_EXPORTER_OTLP_ENDPOINT=f"http://127.0.0.1:{port}",
            OTEL_EXPORTER_OTLP_HEADERS="api-key=s3cret,x-team=shop",
            OTEL_EXPORTER_OTLP_COMPRESSION="gzip",
        )
        arrival = with_spans(arrivals)
    assert arrival.names == [f"publish {task}"]
    headers = {name.lower(): value for name, value in arrival.headers.items()}
    assert (headers["api-key"], headers["x-team"]) == ("s3cret", "shop")
    assert headers["content-encoding"] == "gzip"


def test_tls_with_a_certificate_of_my_own(publish: Any, tmp_path: Path) -> None:
    """My collector has a certificate from the company's own authority."""
    authority: Any = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    with collector(context) as (port, arrivals):
        task = publish(
            OTEL_EXPORTER_OTLP_ENDPOINT=f"https://127.0.0.1:{port}",
            OTEL_EXPORTER_OTLP_CERTIFICATE=str(tmp_path / "ca.pem"),
            REQUESTS_CA_BUNDLE="",  # a machine's own wins over the exporter's, in requests
            CURL_CA_BUNDLE="",
        )
        arrival = with_spans(arrivals)
    assert arrival.names == [f"publish {task}"]


def test_grpc(publish: Any) -> None:
    """My collector takes gRPC alone."""
    arrivals: Queue[list[str]] = Queue()

    class Traces(service_grpc.TraceServiceServicer):
        def Export(self, request: Any, context: Any) -> Any:  # noqa: N802  # the service's name
            del context
            arrivals.put([span.name for span in wire.spans(request.SerializeToString())])
            return service.ExportTraceServiceResponse()

    server: Any = grpc.server(ThreadPoolExecutor(1))
    generated: Any = service_grpc
    generated.add_TraceServiceServicer_to_server(Traces(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        task = publish(
            OTEL_EXPORTER_OTLP_ENDPOINT=f"http://127.0.0.1:{port}",
            OTEL_EXPORTER_OTLP_PROTOCOL="grpc",
        )
        assert arrivals.get(timeout=LIMIT) == [f"publish {task}"]
    finally:
        server.stop(None).wait()
