"""The HTTP server for scrapers."""

from __future__ import annotations

import socket
import urllib.error
import urllib.request
from collections.abc import Generator, Mapping
from contextlib import contextmanager

import pytest

from taskobs.metrics.prometheus.server import Page, Pages, PageServer, ServeError


def broken(_: str) -> Page:
    raise ValueError("secret")


PAGES: Pages = {
    "/metrics": lambda accept: Page(b"of " + accept.encode(), "text/odd"),
    "/broken": broken,
}


@contextmanager
def serving(pages: Pages = PAGES, address: str = "127.0.0.1") -> Generator[PageServer]:
    server = PageServer(pages, address=address, port=0)
    server.start()
    try:
        yield server
    finally:
        server.close()


def ask(url: str, method: str = "GET") -> tuple[int, bytes, Mapping[str, str]]:
    request = urllib.request.Request(url, headers={"Accept": "all"}, method=method)  # noqa: S310
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310
            return answer.status, answer.read(), dict(answer.headers)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read(), dict(error.headers)


def test_a_page_is_made_when_it_is_asked_for() -> None:
    """I scrape a path, and get its page of that moment, made for what I accept."""
    with serving() as server:
        status, body, headers = ask(f"{server.url}/metrics?name[]=x")
        assert (status, body, headers["Content-Type"]) == (200, b"of all", "text/odd")
        status, body, headers = ask(f"{server.url}/metrics", "HEAD")
        assert (status, body, headers["Content-Length"]) == (200, b"", "6")


def test_other_paths_are_not_found() -> None:
    """I mistype a path, and am told which there are."""
    with serving() as server:
        status, body, _ = ask(f"{server.url}/metric")
        assert status == 404
        assert b"/metrics" in body


def test_a_page_that_fails_says_nothing_to_the_outside(caplog: pytest.LogCaptureFixture) -> None:
    """A page can't be made: whoever asks gets an error without its text, the log has it."""
    with serving() as server:
        status, body, _ = ask(f"{server.url}/broken")
        assert status == 500
        assert b"secret" not in body
        assert ask(f"{server.url}/metrics")[0] == 200
    assert "secret" in caplog.text


def test_only_the_address_that_was_given_is_listened_on() -> None:
    """I leave the address at the loopback, and nobody else gets an answer."""
    with serving(address="127.0.0.2") as server:
        assert server.url == f"http://127.0.0.2:{server.port}"
        assert ask(f"{server.url}/metrics")[0] == 200
        with pytest.raises(urllib.error.URLError):
            ask(f"http://127.0.0.1:{server.port}/metrics")


@pytest.mark.skipif(not socket.has_ipv6, reason="this machine has no IPv6")
def test_ipv6_is_an_address_too() -> None:
    """I serve at ``::1``, and its URL has the brackets that it needs."""
    try:
        with serving(address="::1") as server:
            assert ask(f"{server.url}/metrics")[0] == 200
    except ServeError:
        pytest.skip("this machine has no IPv6")


def test_a_taken_port_is_one_clear_line() -> None:
    """I give a port that somebody has, and read which, and why."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(ServeError) as caught:
            PageServer(PAGES, address="127.0.0.1", port=port).start()
    expected = f"metrics can't be served at 127.0.0.1:{port}: Address already in use"
    assert str(caught.value) == expected


def test_an_address_of_another_machine_is_one_clear_line() -> None:
    """I give an address that is none of mine, and read that."""
    with pytest.raises(ServeError, match=r"served at 192\.0\.2\.1:0: Cannot assign"):
        PageServer(PAGES, address="192.0.2.1", port=0).start()


def test_a_client_that_says_nothing_holds_up_nobody() -> None:
    """Somebody connects and sends nothing, and my scrape is answered all the same."""
    with serving() as server, socket.create_connection(("127.0.0.1", server.port)):
        assert ask(f"{server.url}/metrics")[0] == 200


def test_after_its_close_the_port_is_free() -> None:
    """I close the server, and may use its port again."""
    with serving() as server:
        port = server.port
    server.close()
    with socket.create_server(("127.0.0.1", port)):
        assert server.port == 0
