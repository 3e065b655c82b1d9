"""The page's server: telemetry in, the page and its data out, and nobody else let in."""

from __future__ import annotations

import http.client
import json
import os
import re
import socket
from typing import TYPE_CHECKING, Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from taskobs.view.pages import digest
from tests.support import demo
from tests.support.view import serving

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping

    from taskobs.view.serving.server import ViewServer

PATIENCE = 60.0


@pytest.fixture
def server() -> Generator[ViewServer]:
    with serving() as opened:
        yield opened


class Response:
    """What the server said."""

    def __init__(self, response: http.client.HTTPResponse) -> None:
        self.status = response.status
        self.headers = dict(response.headers)
        self.body = response.read()

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def ask(
    server: ViewServer,
    path: str,
    *,
    method: str = "GET",
    body: bytes | None = None,
    headers: Mapping[str, str] | None = None,
) -> Response:
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=PATIENCE)
    try:
        connection.putrequest(method, path, skip_host="Host" in (headers or {}))
        for name, value in (headers or {}).items():
            connection.putheader(name, value)
        if body is not None:
            connection.putheader("Content-Length", str(len(body)))
        connection.endheaders(body)
        return Response(connection.getresponse())
    finally:
        connection.close()


def one_span(name: str = "run shop.pack") -> bytes:
    request = ExportTraceServiceRequest()
    scope = request.resource_spans.add().scope_spans.add()
    scope.spans.append(Span(trace_id=b"\1" * 16, span_id=b"\2" * 8, name=name))
    return bytes(request.SerializeToString())


def send(server: ViewServer, body: bytes, **headers: str) -> int:
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    return ask(server, "/v1/traces", method="POST", body=body, headers=given).status


def test_what_is_sent_is_shown(server: ViewServer) -> None:
    """An exporter sends a span, and the page's list and trace have it."""
    assert send(server, one_span()) == 200
    [listed] = ask(server, "/api/traces").json["traces"]
    shown = ask(server, f"/api/trace/{listed['trace_id']}").json
    assert [span["name"] for span in shown["trace"]["spans"]] == ["run shop.pack"]
    assert ask(server, "/api/changes?after=0&wait=0").json["traces"] == [listed]


def test_a_trace_has_all_that_belongs_to_it(server: ViewServer) -> None:
    """The spans in their order, the Sentry event with its tags, and nothing of other traces."""
    server.store.take([*demo.order(), demo.event()])
    shown = ask(server, f"/api/trace/{demo.TRACE}").json
    assert [(span["depth"], span["name"]) for span in shown["trace"]["spans"]] == [
        (0, "POST /orders"),
        (1, "publish charge"),
        (2, "run charge"),
        (2, "publish charge"),
        (2, "run charge"),
    ]
    [issue] = shown["issues"]
    assert ["celery.task", "charge"] in issue["tags"]
    assert ask(server, "/api/trace/" + "0" * 32).status == 404


def test_the_page_allows_its_own_script_and_style_alone(server: ViewServer) -> None:
    """Whatever came into the page could run nothing, load nothing and send nothing away."""
    answer = ask(server, "/")
    html, policy = answer.body.decode(), answer.headers["Content-Security-Policy"]
    script = re.findall(r"<script>(.*?)</script>", html, re.DOTALL)
    style = re.findall(r"<style>(.*?)</style>", html, re.DOTALL)
    assert [len(script), len(style)] == [1, 1]
    assert policy == (
        f"default-src 'none'; style-src 'sha256-{digest(style[0])}'; "
        f"script-src 'sha256-{digest(script[0])}'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    assert "innerHTML" not in html
    assert not re.findall(r"\son\w+=|url\(|@import|<link|\ssrc=", html)
    for name in ("X-Content-Type-Options", "Referrer-Policy", "Cache-Control"):
        assert name in answer.headers


@pytest.mark.parametrize("path", ["/", "/api/traces", "/api/changes", "/api/view", "/favicon.ico"])
@pytest.mark.parametrize("host", ["evil.example", "evil.example:7318", "127.0.0.1", "", "[::]:1"])
def test_a_name_that_is_led_to_this_machine_gets_nothing(
    server: ViewServer, path: str, host: str
) -> None:
    """A site that points its own name at 127.0.0.1 (DNS rebinding) can't read my telemetry."""
    server.store.take(demo.order())
    answer = ask(server, path, headers={"Host": host})
    assert answer.status == 421
    assert b"charge" not in answer.body


@pytest.mark.parametrize("name", ["127.0.0.1", "localhost", "LOCALHOST", "[::1]"])
def test_this_machine_has_several_names(server: ViewServer, name: str) -> None:
    """I may type localhost as well as the address."""
    headers = {"Host": f"{name}:{server.server_port}"}
    assert ask(server, "/", headers=headers).status == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Host": "evil.example"},
    ],
    ids=str,
)
def test_a_page_of_another_site_can_neither_send_nor_ask(
    server: ViewServer, headers: dict[str, str]
) -> None:
    """A site that I visit puts no telemetry of its own onto my page, and attaches nothing."""
    for path in ("/v1/traces", "/api/1/envelope/", "/api/attach"):
        answer = ask(server, path, method="POST", body=one_span(), headers=headers)
        assert answer.status == 403
    assert ask(server, "/api/traces", headers=headers).status in {403, 421}
    assert ask(server, "/api/traces").json["traces"] == []


def test_a_link_from_another_site_leads_to_the_page(server: ViewServer) -> None:
    """I click a link to a trace in a chat, and see the page."""
    headers = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
    assert ask(server, "/", headers=headers).status == 200


def test_what_can_not_be_read_is_refused_and_counted(server: ViewServer) -> None:
    """A body of another protocol is answered as by a backend, and the page says that it came."""
    assert send(server, b"\xff\xff") == 400
    assert send(server, b"{}", Content_Encoding="zstd") == 415
    sent = ask(server, "/v1/unknown", method="POST", body=b"")
    assert sent.status == 404
    assert ask(server, "/api/traces").json["totals"]["refused"] == 3
    assert send(server, one_span()) == 200


def test_an_exporter_that_speaks_grpc_is_noticed(server: ViewServer) -> None:
    """My app names a gRPC exporter in code: nothing arrives, and the page says why."""
    with socket.create_connection(("127.0.0.1", server.server_port), timeout=PATIENCE) as grpc:
        grpc.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        assert grpc.recv(64)
    assert ask(server, "/api/traces").json["totals"]["grpc"] == 1


def test_metrics_are_taken_and_not_kept(server: ViewServer) -> None:
    """A worker sends its metrics, too; they are answered, so that it logs no failure."""
    assert ask(server, "/v1/metrics", method="POST", body=b"anything").status == 200
    assert ask(server, "/api/traces").json["totals"]["refused"] == 0


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"pid": "x", "name": ""}', b"[" * 4000])
def test_attaching_needs_a_process(server: ViewServer, body: bytes) -> None:
    """Nonsense attaches nothing, and harms nothing."""
    assert ask(server, "/api/attach", method="POST", body=body).status == 400
    assert server.users.commands() == []


def test_commands_are_shown_by_name_and_id(server: ViewServer) -> None:
    """The page says which processes send to it, without arguments: a URL may be among them."""
    body = json.dumps({"pid": os.getpid(), "name": "celery"}).encode()
    assert ask(server, "/api/attach", method="POST", body=body).status == 200
    assert ask(server, "/api/traces").json["commands"] == [f"celery ({os.getpid()})"]


def test_hostile_names_stay_data(server: ViewServer) -> None:
    """A task called like markup is JSON, and no type that a browser would show as a page."""
    send(server, one_span(demo.HOSTILE))
    answer = ask(server, "/api/traces")
    assert answer.headers["Content-Type"] == "application/json"
    assert answer.json["traces"][0]["title"] == demo.HOSTILE


def test_what_the_page_asks_for_is_read_with_care(server: ViewServer) -> None:
    """Numbers that are none count as not given."""
    server.store.take(demo.order())
    for query in ("below=x", "below=-1", "below=1.5", "limit=1e9"):
        assert len(ask(server, f"/api/traces?{query}").json["traces"]) == 1
    assert ask(server, "/api/changes?after=x&wait=x").json["traces"]
