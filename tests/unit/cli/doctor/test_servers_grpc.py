"""What the doctor finds by asking servers over gRPC."""

# grpc ships no types.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

from concurrent import futures
from typing import Any

import grpc
import pytest
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc

from taskobs.cli.doctor.finding import Status
from taskobs.testing.receiver import Receiver
from tests.support.doctor import asked, fine, found

ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"
GRPC = {"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}


class Traces(trace_service_pb2_grpc.TraceServiceServicer):
    """Accepts spans from whoever has the key."""

    def Export(self, request: Any, context: Any) -> Any:  # noqa: N802  # the protocol's name
        """Take a request."""
        del request
        if ("x-api-key", "right") not in context.invocation_metadata():
            context.abort(grpc.StatusCode.UNAUTHENTICATED, "no such key")
        return trace_service_pb2.ExportTraceServiceResponse()


@pytest.mark.parametrize("key", ["right", "wrong"])
def test_a_refused_key_is_found(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The collector takes spans, over gRPC, from those that have its key; it has no metrics."""
    server: Any = grpc.server(futures.ThreadPoolExecutor(1))
    add: Any = trace_service_pb2_grpc.add_TraceServiceServicer_to_server
    add(Traces(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    headers = {"OTEL_EXPORTER_OTLP_HEADERS": f"x-api-key={key}"}
    environ = {ENDPOINT: f"http://127.0.0.1:{port}", **GRPC, **headers}
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    try:
        made = asked(environ)
    finally:
        server.stop(None).wait()
    if key == "right":
        fine("traces", made)
        assert found("metrics", made, Status.WARNING).fix == "export OTEL_METRICS_EXPORTER=none"
    else:
        finding = found("traces", made)
        assert "gRPC UNAUTHENTICATED (no such key)" in finding.what
        assert finding.fix.startswith("export OTEL_EXPORTER_OTLP_HEADERS=")


def test_grpc_to_a_port_for_http_is_found(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """HTTP is spoken there, whatever the port's number is."""
    environ = {ENDPOINT: receiver.endpoint, **GRPC}
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    finding = found("traces", asked(environ))
    assert finding.fix.startswith("export OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf")
