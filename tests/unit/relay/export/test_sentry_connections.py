"""The relay reaches Sentry in the way that the client's options and the environment say."""

# What Sentry's transport and trustme give is typed in part.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

import json
import socket
import ssl
import sys
from collections.abc import Generator
from contextlib import closing, contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import sentry_sdk
import trustme
from sentry_sdk.envelope import Envelope
from sentry_sdk.transport import HttpTransport

from taskobs.relay.export import sentry_connections
from taskobs.relay.export.responses import ExportResult, ExportStatus
from taskobs.relay.export.sentry import SentryPoster
from taskobs.relay.export.sentry_connections import proxy_of
from taskobs.relay.export.sentry_dsn import DsnError, parse_dsn
from tests.support.envelopes import envelope
from tests.support.export import PATIENCE, Backend, Reply, backend
from tests.support.proxy import proxy

PROXIES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")
FILES = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CLIENT_CERT_FILE", "CLIENT_KEY_FILE")


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run without the proxies and certificates of the machine."""
    for name in (*PROXIES, *map(str.upper, PROXIES), *FILES):
        monkeypatch.delenv(name, raising=False)


def post(dsn: str, **options: Any) -> ExportResult:
    with closing(SentryPoster(dsn, options)) as poster:
        return poster.send(envelope(1))


def options_of(dsn: str, **given: Any) -> dict[str, Any]:
    """Give all options of a real client."""
    client = sentry_sdk.Client(dsn=dsn, default_integrations=False, **given)
    return dict(client.options, send_client_reports=False)


# The same request as from Sentry's own transport.


@pytest.mark.parametrize(
    "dsn",
    [
        "http://key@{address}/1",
        "http://key:secret@{address}/22",
        "http://key@{address}/a/prefix/3",
        "http://k%40y@{address}/4?unused=1",
    ],
)
def test_a_request_is_as_from_sentrys_own_transport(dsn: str) -> None:
    """Path, key, version and SDK of a request are those that Sentry's client sends."""
    with backend() as there:
        dsn = dsn.format(address=there.address)
        content = Envelope.deserialize(envelope(1))
        with closing(SentryPoster(dsn, {})) as poster:
            assert poster.send(content.serialize()).status is ExportStatus.SUCCESS
        stock = HttpTransport(options_of(dsn))
        stock.capture_envelope(content)
        stock.flush(PATIENCE)
        stock.kill()
        ours, theirs = there.requests
    assert ours.path == theirs.path
    assert ours.body == theirs.body
    same = ("X-Sentry-Auth", "User-Agent", "Content-Type", "Content-Encoding", "Host")
    assert [ours.headers[name] for name in same] == [theirs.headers[name] for name in same]


@pytest.mark.parametrize(
    ("dsn", "url"),
    [
        ("https://key@sentry.io/7", "https://sentry.io/api/7/envelope/"),
        ("https://key@sentry.io:443/7", "https://sentry.io/api/7/envelope/"),
        ("http://key@sentry:443/7", "http://sentry:443/api/7/envelope/"),
        ("https://key@[::1]:9000/x/7", "https://[::1]:9000/x/api/7/envelope/"),
    ],
)
def test_where_a_dsn_leads(dsn: str, url: str) -> None:
    """A DSN may have a port, a path and an address of IPv6."""
    assert parse_dsn(dsn).envelope_url == url


@pytest.mark.parametrize(
    "dsn",
    [
        "",
        "s3cret",
        "https://s3cret@/1",
        "https://sentry.io/1",
        "ftp://s3cret@sentry.io/1",
        "https://s3cret@sentry.io/",
        "https://s3cret@sentry.io/x",
        "https://s3cret@host:port/1",
    ],
)
def test_a_dsn_that_is_none_is_refused_without_its_secret(dsn: str) -> None:
    """A client with a broken DSN costs its own events; its key is in no log."""
    with pytest.raises(DsnError, match="the DSN") as caught:
        parse_dsn(dsn)
    assert "s3cret" not in str(caught.value)


def test_a_connection_is_kept_open_for_the_next_event() -> None:
    """Sentry is not connected to anew for each event."""
    with backend(Reply(body=b'{"id":"1"}'), Reply(400, body=b"x" * 100)) as there:
        with closing(SentryPoster(there.dsn, {})) as poster:
            for number in range(4):
                poster.send(envelope(number))
        assert there.connections == 1


def test_a_response_that_does_not_end_is_not_read_to_its_end() -> None:
    """A server that answers with a gigabyte takes neither memory nor time."""
    with backend(Reply(body=b"x" * 50_000_000)) as there:
        assert post(there.dsn).status is ExportStatus.SUCCESS


def test_redirects_are_followed_a_few_times() -> None:
    """My Sentry has moved: events arrive; one that sends them in a circle refuses them."""
    with backend() as new, backend(respond=lambda _: Reply(307, {"Location": "/circle"})) as circle:
        where = {"Location": f"http://{new.address}/api/1/envelope/"}
        with backend(Reply(308, where)) as old:
            assert post(old.dsn).status is ExportStatus.SUCCESS
        assert [request.body for request in new.requests] == [envelope(1)]
        assert post(circle.dsn) == (ExportStatus.DROP, "HTTP 307", "", None, 0)
        assert len(circle.requests) == 4


def test_what_sentry_says_of_a_refusal_is_logged() -> None:
    """The project is gone: the log has Sentry's own words for it."""
    body = b'{"detail": "bad sentry DSN public key", "causes": []}'
    with backend(Reply(403, body=body), Reply(502, body=b"<h1>\n Bad  gateway</h1>")) as there:
        assert post(there.dsn).text == "HTTP 403 (bad sentry DSN public key)"
        assert post(there.dsn).text == "HTTP 502 (<h1> Bad gateway</h1>)"


# Proxies.


@pytest.mark.parametrize("from_environment", [False, True])
def test_events_go_through_the_proxy(
    from_environment: bool,  # noqa: FBT001  # pytest gives it
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """I set http_proxy, for the client or for the process: events take that way."""
    with backend() as there, proxy() as server:
        options: dict[str, Any] = {"http_proxy": f"http://{server.address}"}
        if from_environment:
            monkeypatch.setenv("http_proxy", options.pop("http_proxy"))
        assert post(there.dsn, **options).status is ExportStatus.SUCCESS
        assert [request.body for request in there.requests] == [envelope(1)]
        [(method, target, _)] = server.asked
        assert (method, target) == ("POST", f"http://{there.address}/api/1/envelope/")


def test_a_proxy_gets_its_headers_and_password_and_sentry_neither() -> None:
    """My proxy wants to know who I am: it hears it, and Sentry does not."""
    with backend() as there, proxy() as server:
        post(there.dsn, http_proxy=server.address, proxy_headers={"X-Team": "shop"})
        post(there.dsn, http_proxy=f"http://user:p%40ss@{server.address}")
        (_, _, first), (_, _, second) = server.asked
    assert first["X-Team"] == "shop"
    assert "Basic dXNlcjpwQHNz" in second.values()


def test_tls_goes_through_a_tunnel(private: Authority) -> None:
    """Sentry over https behind a proxy: that gets its headers, and sees nothing of the event."""
    with private.backend() as there, proxy() as server:
        options = {"https_proxy": f"http://{server.address}", "proxy_headers": {"X-Team": "shop"}}
        assert post(there.dsn, ca_certs=private.file, **options).status is ExportStatus.SUCCESS
        [(method, target, headers)] = server.asked
        assert (method, target) == ("CONNECT", there.address)
        assert headers["X-Team"] == "shop"
        [request] = there.requests
        assert request.body == envelope(1)
        assert "X-Team" not in request.headers


@pytest.mark.parametrize(
    ("dsn", "options", "environment"),
    [
        ("http://k@h/1", {}, {}),
        ("https://k@h/1", {}, {}),
        ("http://k@h/1", {}, {"http_proxy": "http://e:1"}),
        ("http://k@h/1", {}, {"https_proxy": "http://e:1"}),
        ("https://k@h/1", {}, {"https_proxy": "http://e:1", "http_proxy": "http://e:2"}),
        ("https://k@h/1", {}, {"http_proxy": "http://e:2"}),
        ("https://k@h/1", {"https_proxy": ""}, {"https_proxy": "http://e:1"}),
        ("https://k@h/1", {"https_proxy": ""}, {"http_proxy": "http://e:2"}),
        ("https://k@h/1", {"http_proxy": "", "https_proxy": ""}, {"http_proxy": "http://e:2"}),
        ("http://k@h/1", {"http_proxy": "http://o:1"}, {"http_proxy": "http://e:2"}),
        ("http://k@h/1", {"https_proxy": "http://o:1"}, {}),
        ("https://k@h/1", {"http_proxy": "http://o:1"}, {"https_proxy": "http://e:1"}),
        ("http://k@a.h/1", {}, {"http_proxy": "http://e:1", "no_proxy": "b.h,a.h"}),
        ("http://k@a.h/1", {}, {"http_proxy": "http://e:1", "no_proxy": "b.h, .h"}),
        ("http://k@a.h:8/1", {}, {"http_proxy": "http://e:1", "no_proxy": "a.h:8"}),
        ("http://k@a.h:8/1", {}, {"http_proxy": "http://e:1", "no_proxy": "a.h:9"}),
        ("http://k@a.h/1", {"http_proxy": "http://o:1"}, {"no_proxy": "a.h"}),
    ],
)
def test_the_proxy_is_the_one_that_sentrys_own_transport_takes(
    dsn: str,
    options: dict[str, str],
    environment: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Options, environment and no_proxy mean with a relay what they mean without."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    stock = HttpTransport(options_of(dsn, **options))
    theirs = getattr(stock._pool, "proxy", None)  # pyright: ignore[reportPrivateUsage]  # what it has chosen
    stock.kill()
    assert proxy_of(parse_dsn(dsn), options) == (str(theirs) if theirs else None)


def test_no_proxy_for_anything(monkeypatch: pytest.MonkeyPatch) -> None:
    """``no_proxy=*`` is for all hosts, as with curl; an empty entry is for none."""
    monkeypatch.setenv("http_proxy", "http://e:1")
    monkeypatch.setenv("no_proxy", "*")
    assert proxy_of(parse_dsn("http://k@h/1"), {}) is None
    monkeypatch.setenv("no_proxy", "x,,")
    assert proxy_of(parse_dsn("http://k@h/1"), {}) == "http://e:1"


def test_a_socks_proxy_without_pysocks_is_said_and_done_without(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PySocks is missing: events arrive as they do without a relay, and I read what to install."""
    monkeypatch.setitem(sys.modules, "urllib3.contrib.socks", None)
    with backend() as there:
        assert post(there.dsn, http_proxy="socks5://127.0.0.1:9").status is ExportStatus.SUCCESS
    assert "pip install PySocks" in caplog.text


def test_a_socks_proxy_is_used_where_pysocks_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """urllib3's manager for SOCKS gets the proxy's address, and the options of the others."""
    made: list[tuple[str, dict[str, Any]]] = []
    socks = ModuleType("urllib3.contrib.socks")

    def manager(address: str, **options: Any) -> str:
        made.append((address, options))
        return "pool"

    socks.SOCKSProxyManager = manager  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "urllib3.contrib.socks", socks)
    dsn = parse_dsn("http://k@h/1")
    found: object = sentry_connections.connect(
        dsn, {"http_proxy": "socks5h://p:1"}, timeout=1, connections=2
    )
    assert found == "pool"
    [(address, options)] = made
    assert address == "socks5h://p:1"
    assert options["cert_reqs"] == "CERT_REQUIRED"


# TLS.


class Authority:
    """A private certificate authority, with files of its certificate and of a client's."""

    def __init__(self, directory: Path) -> None:
        self.ca = trustme.CA()
        self.file = str(directory / "ca.pem")
        self.ca.cert_pem.write_to_path(self.file)
        issued = self.ca.issue_cert("client@example.org")
        self.client_cert, self.client_key = str(directory / "c.pem"), str(directory / "c.key")
        for number, blob in enumerate(issued.cert_chain_pems):
            blob.write_to_path(self.client_cert, append=bool(number))
        issued.private_key_pem.write_to_path(self.client_key)

    @contextmanager
    def backend(self, *, wants_client: bool = False) -> Generator[Backend]:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.ca.issue_cert("127.0.0.1").configure_cert(context)
        if wants_client:
            self.ca.configure_trust(context)
            context.verify_mode = ssl.CERT_REQUIRED
        with backend(tls=context) as there:
            yield there


@pytest.fixture
def private(tmp_path: Path) -> Authority:
    """Give an authority that nobody trusts without being told to."""
    return Authority(tmp_path)


@pytest.mark.parametrize("variable", ["", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"])
def test_a_private_authority_is_trusted_where_it_is_named(
    private: Authority, variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """My Sentry's certificate is of my own authority, which the client or a variable names."""
    options = {} if variable else {"ca_certs": private.file}
    if variable:
        monkeypatch.setenv(variable, private.file)
    with private.backend() as there:
        assert post(there.dsn, **options).status is ExportStatus.SUCCESS
        assert len(there.requests) == 1


def test_a_certificate_of_an_unknown_authority_is_refused(private: Authority) -> None:
    """Somebody else answers for my Sentry: no event is sent there, and the log says why."""
    with private.backend() as there:
        result = post(there.dsn)
        assert not there.requests
    assert result.status is ExportStatus.RETRY
    assert "certificate verify failed" in result.detail


@pytest.mark.parametrize("from_environment", [False, True])
def test_a_client_certificate_is_shown(
    private: Authority,
    from_environment: bool,  # noqa: FBT001  # pytest gives it
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """My Sentry lets nobody in without a certificate of mine."""
    files = {"cert_file": private.client_cert, "key_file": private.client_key}
    if from_environment:
        monkeypatch.setenv("CLIENT_CERT_FILE", files.pop("cert_file"))
        monkeypatch.setenv("CLIENT_KEY_FILE", files.pop("key_file"))
    with private.backend(wants_client=True) as there:
        assert post(there.dsn, ca_certs=private.file, **files).status is ExportStatus.SUCCESS
        assert len(there.requests) == 1
    monkeypatch.undo()
    with private.backend(wants_client=True) as there:
        assert post(there.dsn, ca_certs=private.file).status is ExportStatus.RETRY
        assert not there.requests


# Sockets.


@pytest.mark.parametrize(
    "given",
    [
        {"keep_alive": True},
        {"socket_options": [(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)]},
        {"keep_alive": True, "socket_options": [(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 0)]},
        {},
    ],
)
def test_sockets_have_the_options_of_sentrys_own_transport(given: dict[str, Any]) -> None:
    """keep_alive and socket_options mean with a relay what they mean without."""
    dsn = "http://k@h/1"
    stock = HttpTransport(options_of(dsn, **given))
    theirs = stock._pool.connection_pool_kw.get("socket_options")  # pyright: ignore[reportPrivateUsage]
    stock.kill()
    # As msgpack hands them on: lists of lists.
    over_the_wire: dict[str, Any] = json.loads(json.dumps(given))
    ours = sentry_connections.connect(parse_dsn(dsn), over_the_wire, timeout=1, connections=1)
    found = ours.connection_pool_kw.get("socket_options")
    assert found == (None if theirs is None else [tuple(one) for one in theirs])

    with backend() as there:
        assert post(there.dsn, **over_the_wire).status is ExportStatus.SUCCESS
