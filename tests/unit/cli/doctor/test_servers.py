"""What the doctor finds by asking servers: real ones, on the loopback."""

from __future__ import annotations

import re
import socket
import ssl
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest
import trustme
from celery import Celery

from taskobs.cli.doctor.asking import celery_servers
from taskobs.cli.doctor.evidence import Connection, Evidence, Response
from taskobs.cli.doctor.finding import Finding, Status
from taskobs.relay.export.responses import ExportResult, ExportStatus
from taskobs.testing.receiver import Receiver
from tests.live.services import free_port
from tests.support.doctor import asked, evidence, fine, found, probed

ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forget the proxies of whoever runs the tests."""
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


def ask(monkeypatch: pytest.MonkeyPatch, **environ: str) -> Evidence:
    """Ask the servers that these variables name."""
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    return asked(environ)


def test_servers_that_accept_everything_are_fine(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One span of the doctor's own is sent, and no event."""
    environ = {ENDPOINT: receiver.endpoint, "SENTRY_DSN": receiver.dsn, "TASKOBS_LOGS": "otlp"}
    made = ask(monkeypatch, **environ)
    for name in ("traces", "metrics", "logs", "errors", "clock", "proxy"):
        fine(name, made)
    assert [span.name for span in receiver.spans] == ["taskobs doctor"]
    assert not receiver.events


@pytest.mark.parametrize(
    ("status", "fix"),
    [
        (401, 'export OTEL_EXPORTER_OTLP_HEADERS="authorization=Bearer%20<token>"'),
        (403, 'export OTEL_EXPORTER_OTLP_HEADERS="authorization=Bearer%20<token>"'),
        (404, f"export {ENDPOINT}=<the address before /v1/traces>"),
        (413, "raise the server's limit of a request's size"),
        (429, "raise the quota at the backend, or taskobs.init(sample_rate=0.1)"),
        (500, "look into the log of the server at "),
    ],
)
def test_refused_spans_are_found(
    status: int, fix: str, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server says no, and the doctor says what to do about that answer."""
    receiver.behave("/v1/traces", status=status)
    finding = found("traces", ask(monkeypatch, **{ENDPOINT: receiver.endpoint}))
    assert f"HTTP {status}" in finding.what
    assert finding.fix.startswith(fix)


def test_a_path_twice_is_found_by_what_the_server_says(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The exporter of a worker adds the path to one that is there already."""
    made = ask(monkeypatch, **{ENDPOINT: f"{receiver.endpoint}/v1/traces"})
    assert "/v1/traces/v1/traces" in found("traces", made).what
    assert found("endpoint_path", made).fix == f"export {ENDPOINT}={receiver.endpoint}"


def test_a_server_that_is_away_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing listens where my variable points."""
    port = free_port()
    made = ask(monkeypatch, **{ENDPOINT: f"http://127.0.0.1:{port}"})
    finding = found("traces", made)
    assert "refused" in finding.what
    assert finding.fix.startswith(f"start the server at 127.0.0.1:{port}")
    assert made.clocks == []


def test_a_host_that_does_not_exist_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """The name of the collector's service is misspelt."""

    def unknown(*_: object, **__: object) -> None:
        # As a resolver that responds: one that is away is waited for longer than for a server.
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    finding = found("traces", ask(monkeypatch, **{ENDPOINT: "http://no-such-host.invalid:4318"}))
    assert finding.fix == f"export {ENDPOINT}=<a host that this machine can resolve>"


def test_metrics_that_a_backend_of_spans_refuses_are_found(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Jaeger takes no metrics: that is no fault, and there is a variable for it."""
    receiver.behave("/v1/metrics", status=404)
    made = ask(monkeypatch, **{ENDPOINT: receiver.endpoint})
    assert found("metrics", made, Status.WARNING).fix == "export OTEL_METRICS_EXPORTER=none"
    fine("traces", made)


def test_refused_metrics_are_found(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    """The key may write spans, and no metrics."""
    receiver.behave("/v1/metrics", status=403)
    finding = found("metrics", ask(monkeypatch, **{ENDPOINT: receiver.endpoint}))
    assert "HTTP 403" in finding.what


def test_refused_log_records_are_found(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    """The collector has no pipeline for logs."""
    receiver.behave("/v1/logs", status=404)
    made = ask(monkeypatch, **{ENDPOINT: receiver.endpoint, "TASKOBS_LOGS": "otlp"})
    assert "HTTP 404" in found("logs", made).what


def test_a_refused_dsn_is_found(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    """The project's key was revoked; no event is made to learn that."""
    receiver.behave("/api/", status=403)
    finding = found("errors", ask(monkeypatch, SENTRY_DSN=receiver.dsn))
    assert "HTTP 403" in finding.what
    assert "demo" not in finding.what
    assert finding.fix.startswith("copy the DSN anew")


def test_a_sentry_that_is_away_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """The host of the DSN does not respond."""
    port = free_port()
    finding = found("errors", ask(monkeypatch, SENTRY_DSN=f"http://key@127.0.0.1:{port}/1"))
    assert finding.fix.startswith(f"start the server at 127.0.0.1:{port}")


def test_a_proxy_that_is_in_the_way_is_found(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """HTTP_PROXY is set for the outside, and takes what is for this machine."""
    proxy = f"http://127.0.0.1:{free_port()}"
    made = ask(monkeypatch, **{ENDPOINT: receiver.endpoint, "HTTP_PROXY": proxy})
    assert found("traces", made).fix == "export NO_PROXY=127.0.0.1"
    assert "through the proxy" in found("traces", made).what
    assert found("proxy", made, Status.WARNING).fix == "export NO_PROXY=127.0.0.1"


def test_an_exception_from_the_proxy_is_fine(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """I have written that line."""
    environ = {"HTTP_PROXY": f"http://127.0.0.1:{free_port()}", "NO_PROXY": "127.0.0.1"}
    made = ask(monkeypatch, **{ENDPOINT: receiver.endpoint, **environ})
    fine("traces", made)
    fine("proxy", made)


class Handler(BaseHTTPRequestHandler):
    """Accepts everything; its clock is an hour fast."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.do_HEAD()

    def do_HEAD(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def date_time_string(self, timestamp: float | None = None) -> str:
        return super().date_time_string((timestamp or time.time()) + 3600)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the base's name
        """Write no access log."""


class QuietServer(HTTPServer):
    """Does not complain of clients that hang up, as those do that trust it not."""

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing."""


@contextmanager
def serving(tls: ssl.SSLContext | None = None) -> Generator[str]:
    """Serve on the loopback; give host and port."""
    server = QuietServer(("127.0.0.1", 0), Handler)
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_clocks_that_are_apart_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """The backend's clock is an hour fast: runs seem to begin before their publish."""
    with serving() as server:
        made = ask(monkeypatch, **{ENDPOINT: f"http://{server}"})
    finding = found("clock", made, Status.WARNING)
    said = re.search(rf"the clock of {server} is (\d+) s ahead of this one's", finding.what)
    assert said
    assert int(said[1]) == pytest.approx(3600, abs=60)
    assert finding.fix.startswith("timedatectl set-ntp true")


def test_a_certificate_that_is_not_trusted_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """The collector has a certificate of our own authority."""
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority: Any = trustme.CA()
    authority.issue_cert("127.0.0.1").configure_cert(tls)
    with serving(tls) as server:
        dsn = f"https://key@{server}/1"
        made = ask(monkeypatch, **{ENDPOINT: f"https://{server}", "SENTRY_DSN": dsn})
    fix = "export OTEL_EXPORTER_OTLP_CERTIFICATE=/path/to/ca.pem"
    assert found("traces", made).fix == fix
    assert found("errors", made).fix == "export SSL_CERT_FILE=/path/to/ca.pem"


def test_tls_to_a_server_without_it_is_found(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """I have written https:// for a collector that speaks plain HTTP."""
    address = f"127.0.0.1:{receiver.port}"
    made = ask(monkeypatch, **{ENDPOINT: f"https://{address}"})
    assert found("traces", made).fix.startswith(f"export {ENDPOINT}=http://{address}")


def test_a_port_for_grpc_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """HTTP to a port at which gRPC is spoken, whatever its number is."""
    settings = b"\x00\x00\x06\x04\x00\x00\x00\x00\x00\x00\x05\x00\x00\x40\x00"

    def respond(listening: socket.socket) -> None:
        while True:
            try:
                connection, _ = listening.accept()
            except OSError:
                return
            with connection:
                connection.sendall(settings)
                connection.shutdown(socket.SHUT_WR)
                while connection.recv(65536):  # what is left unread would reset the connection
                    pass

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=respond, args=(listening,), daemon=True)
        thread.start()
        port = listening.getsockname()[1]
        made = ask(monkeypatch, **{ENDPOINT: f"http://127.0.0.1:{port}"})
        listening.shutdown(socket.SHUT_RDWR)
    thread.join()
    finding = found("traces", made)
    assert finding.fix.startswith("export OTEL_EXPORTER_OTLP_PROTOCOL=grpc")


def in_app(app: Celery) -> Evidence:
    made = evidence()
    made.app = app
    made.broker, _ = celery_servers.ask_broker(app)
    made.backend = celery_servers.ask_backend(app)
    return made


def test_a_broker_that_is_away_is_found() -> None:
    """Nothing listens at the broker's port."""
    app = Celery("shop", broker=f"redis://:pw@127.0.0.1:{free_port()}", set_as_current=False)
    finding = found("broker", in_app(app))
    assert finding.what.startswith("the broker redis at 127.0.0.1:")
    assert "Connection refused" in finding.what
    assert finding.fix == "start the broker, or set broker_url to where it is"


def test_a_result_backend_that_is_away_is_found(app: Celery) -> None:
    """The broker responds, and the result backend does not."""
    app.conf.update(result_backend=f"redis://127.0.0.1:{free_port()}")
    made = in_app(app)
    fine("broker", made)
    finding = found("result_backend", made)
    assert "Connection refused" in finding.what
    assert finding.fix == "start the result backend, or set result_backend to where it is"


def test_servers_of_celery_that_respond_are_fine(app: Celery) -> None:
    """Broker and result backend respond; an app without results is fine, too."""
    fine("broker", in_app(app))
    fine("result_backend", in_app(app))
    made = in_app(Celery("shop", broker="memory://", set_as_current=False))
    assert fine("result_backend", made).what == "there is no result backend"


def test_a_result_backend_that_keeps_nothing_is_found() -> None:
    """It responds, and is read-only: the probe's result is not there."""
    made = probed(stored=False)
    made.backend = Connection("redis://localhost:6379/0")
    assert found("result_backend", made).fix.startswith("let the worker write to it")


def test_what_was_dropped_after_it_was_accepted_is_found() -> None:
    """The response is 200, and says that the span was left out."""
    made = evidence({ENDPOINT: "http://localhost:4318"})
    result = ExportResult(ExportStatus.SUCCESS, "rejected", "too old", rejected=1)
    made.responses.append(Response("traces", "http://localhost:4318/v1/traces", result))
    finding: Finding = found("traces", made)
    assert "too old" in finding.what
