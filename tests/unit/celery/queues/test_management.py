"""RabbitMQ's management API, as far as the monitor asks it."""

from __future__ import annotations

import base64
import json
from collections.abc import Generator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from types import SimpleNamespace
from typing import Any, cast

import pytest

from taskobs.celery.queues.management import Management, ManagementError

DETAILS = {"messages_unacknowledged": 3, "head_message_timestamp": 1700000000}


class Api(ThreadingHTTPServer):
    """A server that answers as it is told, and remembers what it was asked."""

    def __init__(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        super().__init__(("127.0.0.1", 0), Asked)
        self.answer = status, body, headers
        self.asked: list[tuple[str, str]] = []

    @property
    def where(self) -> str:
        return f"127.0.0.1:{self.server_port}"


class Asked(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        server = cast("Api", self.server)
        status, body, headers = server.answer
        login = self.headers["Authorization"].removeprefix("Basic ")
        server.asked.append((self.path, base64.b64decode(login).decode()))
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the base's name
        pass


@contextmanager
def api(
    found: object = DETAILS, *, status: int = 200, headers: dict[str, str] | None = None
) -> Generator[Api]:
    body = found if isinstance(found, bytes) else json.dumps(found).encode()
    server = Api(status, body, headers or {})
    thread = Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def connection(**fields: Any) -> Any:
    """Give what is read of a connection of kombu's."""
    given = {"virtual_host": "a/b", "ssl": False, "hostname": "127.0.0.1"}
    return SimpleNamespace(**{**given, "userid": "me", "password": "p:w", **fields})


@pytest.mark.parametrize("path", ["", "/", "/api", "/api/"])
def test_a_queue_is_asked_for_by_its_name(path: str) -> None:
    """I give the API's address with or without its path, and the broker's login is used."""
    with api() as server:
        found = Management(f"http://{server.where}{path}", connection()).queue("my queue/1")
        assert found == (3, 1700000000)
        [(asked, login)] = server.asked
        assert asked.partition("?")[0] == "/api/queues/a%2Fb/my%20queue%2F1"
        assert login == "me:p:w"


def test_a_login_of_its_own_is_used_there() -> None:
    """I give the API's address with a login, percent-encoded, and it is not the broker's."""
    with api() as server:
        Management(f"http://you:s%40fe@{server.where}", connection()).queue("q")
        assert server.asked[0][1] == "you:s@fe"


def test_a_password_that_is_made_anew_is_asked_for() -> None:
    """My broker's password is a function, as kombu allows."""
    with api() as server:
        Management(f"http://{server.where}", connection(password=lambda: "new")).queue("q")
        assert server.asked[0][1] == "me:new"


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        ({"status": 401}, "HTTP 401"),
        ({"status": 302, "headers": {"Location": "http://127.0.0.1:9/elsewhere"}}, "HTTP 302"),
        ({"found": b"<html>"}, "its answer is no JSON"),
        ({"found": [1]}, "its answer is no JSON"),
    ],
)
def test_a_strange_answer_is_named(answer: dict[str, Any], problem: str) -> None:
    """The API refuses, redirects or is none: I read what was asked, and no password."""
    with api(**answer) as server:
        management = Management(f"http://you:secret@{server.where}", connection())
        with pytest.raises(ManagementError) as caught:
            management.queue("q")
    assert str(caught.value) == (
        f"RabbitMQ's management API at http://{server.where}/api can't be asked ({problem}): "
        "set --broker-api"
    )


def test_without_statistics_nothing_is_made_up() -> None:
    """A queue is new, and the API has no numbers yet."""
    with api({"messages_unacknowledged": "", "head_message_timestamp": None}) as server:
        assert Management(f"http://{server.where}", connection()).queue("q") == (None, None)


def test_an_api_that_is_not_there_is_named() -> None:
    """Nobody listens: I read that, and where it was looked for."""
    with api() as server:
        where = server.where
    with pytest.raises(ManagementError, match=rf"{where}/api can't be asked \("):
        Management(f"http://{where}", connection()).queue("q")


def test_no_password_goes_out_in_clear() -> None:
    """My broker is reached by TLS: the API isn't looked for beside it without TLS."""
    with pytest.raises(ManagementError, match="is not configured: set --broker-api"):
        Management(None, connection(ssl={"ca_certs": "x"})).queue("q")
