"""A query API like Jaeger's, on the loopback, with the traces that a test gives it."""

from __future__ import annotations

import json
import threading
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, cast
from urllib.parse import parse_qs, urlsplit

from taskobs.testing.wire import ReceivedSpan

NOT_FOUND = {"data": None, "errors": [{"code": 404, "msg": "trace not found"}]}


def trace_of(spans: Sequence[ReceivedSpan], service: str = "shop") -> dict[str, Any]:
    """Write spans as Jaeger does: parents and links are references, whose attributes it drops."""
    return {
        "traceID": spans[0].trace_id,
        "spans": [_span(span) for span in spans],
        "processes": {"p1": {"serviceName": service, "tags": []}},
        "warnings": None,
    }


def _span(span: ReceivedSpan) -> dict[str, Any]:
    references = [("CHILD_OF", span.trace_id, span.parent_id)] if span.parent_id else []
    references += [("FOLLOWS_FROM", link.trace_id, link.span_id) for link in span.links]
    failed = {"error": True, "otel.status_code": "ERROR", "otel.status_description": span.message}
    tags = {**span.attributes, **(failed if span.status == "error" else {})}
    return {
        "traceID": span.trace_id,
        "spanID": span.span_id,
        "operationName": span.name,
        "references": [
            {"refType": kind, "traceID": trace_id, "spanID": span_id}
            for kind, trace_id, span_id in references
        ],
        "startTime": span.start_ns // 1000,
        "duration": (span.end_ns - span.start_ns) // 1000,
        "tags": [
            {"key": key, "type": _TYPES.get(type(value), "string"), "value": value}
            for key, value in tags.items()
        ],
        "logs": [],
        "processID": "p1",
        "warnings": None,
    }


_TYPES: dict[type[object], str] = {bool: "bool", int: "int64", float: "float64"}


class FakeJaeger:
    """What the API has, and what it was asked."""

    def __init__(self, *traces: dict[str, Any]) -> None:
        self.traces = traces
        self.asked: list[str] = []
        self.logins: list[str] = []
        self.url = ""
        self.answer: tuple[int, bytes] | None = None
        """The status and the body of each answer, in the place of those that the API would give."""

    def respond(self, path: str) -> tuple[int, object]:
        """Answer as Jaeger does."""
        self.asked.append(path)
        url = urlsplit(path)
        query = {name: values[0] for name, values in parse_qs(url.query).items()}
        if url.path == "/api/services":
            return HTTPStatus.OK, {"data": sorted({self._service(one) for one in self.traces})}
        if url.path == "/api/traces":
            return HTTPStatus.OK, {"data": [one for one in self.traces if self._has(one, query)]}
        wanted = url.path.removeprefix("/api/traces/")
        found = [one for one in self.traces if one["traceID"] == wanted]
        return (HTTPStatus.OK, {"data": found}) if found else (HTTPStatus.NOT_FOUND, NOT_FOUND)

    def _service(self, trace: dict[str, Any]) -> str:
        return str(trace["processes"]["p1"]["serviceName"])

    def _has(self, trace: dict[str, Any], query: dict[str, str]) -> bool:
        if self._service(trace) != query["service"]:
            return False
        wanted = json.loads(query["tags"]).items()
        spans = ({tag["key"]: tag["value"] for tag in one["tags"]} for one in trace["spans"])
        began = max(one["startTime"] for one in trace["spans"])
        in_time = int(query["start"]) <= began <= int(query["end"])
        return in_time and any(wanted <= tags.items() for tags in spans)


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        jaeger = cast("_Server", self.server).jaeger
        jaeger.logins.append(self.headers.get("Authorization", ""))
        status, found = jaeger.respond(self.path)
        body = json.dumps(found).encode()
        if jaeger.answer is not None:
            status, body = jaeger.answer
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # as http.server has it
        """Print nothing."""


class _Server(ThreadingHTTPServer):
    jaeger: FakeJaeger


@contextmanager
def query_api(*traces: dict[str, Any]) -> Generator[FakeJaeger]:
    """Serve these traces."""
    jaeger = FakeJaeger(*traces)
    with _Server(("127.0.0.1", 0), _Handler) as server:
        server.jaeger = jaeger
        jaeger.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield jaeger
        finally:
            server.shutdown()
            thread.join()
