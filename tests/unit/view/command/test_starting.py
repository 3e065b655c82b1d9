"""Whose page it is that a command joins."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from taskobs.view.command.starting import Options, ViewError, is_served, reach
from taskobs.view.serving.server import ViewServer
from taskobs.view.storage.store import MEBIBYTE
from tests.support.view import serving

if TYPE_CHECKING:
    from collections.abc import Generator

MAPPED = "::ffff:127.0.0.1"


@pytest.fixture
def server() -> Generator[ViewServer]:
    with serving() as opened:
        yield opened


def options(server: ViewServer) -> Options:
    return Options(port=server.server_port, limit=MEBIBYTE, stay=0)


def test_a_page_that_is_there_is_joined(server: ViewServer) -> None:
    """The second command is on the page of the first, by its process id."""
    page = reach(options(server), "celery")
    assert (page.joined, page.url) == (True, f"http://127.0.0.1:{server.server_port}")
    assert [one.pid for one in server.users.commands()] == [os.getpid()]


class Dropping(ViewServer):
    """Drops its first connections unanswered, as a page does with those that come at its end."""

    def __init__(self, number: int) -> None:
        self.left = number
        super().__init__(0, limit=MEBIBYTE, stay=0)

    def verify_request(self, request: object, client_address: object) -> bool:
        """Tell whether a connection is answered."""
        del request, client_address
        self.left -= 1
        return self.left < 0


@pytest.fixture
def dropping(request: pytest.FixtureRequest) -> Generator[Dropping]:
    opened = Dropping(request.param)
    with serving(opened):
        yield opened


@pytest.mark.parametrize("dropping", [1, 2], indirect=True)
def test_a_page_that_ends_while_it_is_asked_is_asked_again(dropping: Dropping) -> None:
    """The page ends while my command starts: it is not taken for another program's."""
    assert reach(options(dropping), "celery").joined


@pytest.mark.parametrize("dropping", [1000], indirect=True)
def test_a_program_that_never_answers_is_another_one(dropping: Dropping) -> None:
    """A server of another protocol drops what I ask: I am told to choose another port."""
    with pytest.raises(ViewError, match="is used by another program"):
        reach(options(dropping), "celery")


@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="needs Linux' /proc")
def test_the_page_of_another_user_is_not_joined(
    server: ViewServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody else of this machine serves the port: my telemetry is not theirs to see."""
    mine = os.getuid()
    monkeypatch.setattr(os, "getuid", lambda: mine + 1)
    with pytest.raises(ViewError, match="is used by another user"):
        reach(options(server), "celery")
    assert server.users.commands() == []


@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="needs Linux' /proc")
@pytest.mark.parametrize(
    ("family", "host"), [(socket.AF_INET, ""), (socket.AF_INET6, "::"), (socket.AF_INET6, MAPPED)]
)
def test_whoever_answers_for_the_loopback_is_found(
    family: socket.AddressFamily, host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody else listens at all addresses of this machine, and so at that of the page."""
    if family == socket.AF_INET6 and not socket.has_dualstack_ipv6():
        pytest.skip("needs IPv6")
    mine = os.getuid()
    with socket.socket(family, socket.SOCK_STREAM) as theirs:
        if family == socket.AF_INET6:
            theirs.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        theirs.bind((host, 0))
        theirs.listen()
        port = theirs.getsockname()[1]
        monkeypatch.setattr(os, "getuid", lambda: mine + 1)
        with pytest.raises(ViewError, match="is used by another user"):
            reach(Options(port=port, limit=MEBIBYTE, stay=0), "celery")


def test_a_page_that_has_ended_is_not_served(server: ViewServer) -> None:
    """`taskobs view` without a command sees that the page has ended."""
    assert is_served(server.server_port)
    with serving() as other:
        port = other.server_port
    assert not is_served(port)
