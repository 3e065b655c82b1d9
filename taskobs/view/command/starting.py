"""Finds the page of this machine, or starts the process that serves it, and joins it."""

from __future__ import annotations

import http.client
import json
import os
import subprocess
import sys
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Final, Literal

from taskobs.relay_client import relay_command
from taskobs.testing.http_server import HOST, JSON
from taskobs.view.serving.serve import IN_USE
from taskobs.view.serving.server import ATTACH, IDENTITY

ANSWER: Final = 10.0
"""Seconds that whoever has the port may take to say what it is."""
LIMIT: Final = 30.0
"""Seconds after which it is given up: the page that ends, or begins, takes one."""
AGAIN: Final = 0.1
ASKED: Final = 5
"""How often whoever has the port is asked what it is, if it drops the connection."""
FOREIGN: Final = ("OTEL_", "SENTRY_", "TASKOBS_")
_LISTEN: Final = "0A"
_TABLES: Final = {
    "/proc/net/tcp": ("0100007F", 8 * "0"),
    "/proc/net/tcp6": (32 * "0", "0000000000000000FFFF00000100007F"),
}
"""Linux' tables of sockets, and what they call the loopback and all addresses."""


class ViewError(Exception):
    """The page can't be had; the message says what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """A page that is served."""

    port: int
    joined: bool
    """It was served before."""

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://{HOST}:{self.port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How the page is to be served."""

    port: int
    limit: int
    """Bytes that it may keep."""
    stay: float
    """Seconds that it stays when nobody uses it any more."""


def reach(options: Options, name: str) -> Page:
    """Join the page at the port, as this process and under a name, or serve it first.

    Raises:
        ViewError: somebody else has the port, or the page can't be served.
    """
    deadline = time.monotonic() + LIMIT
    joined = True
    while time.monotonic() < deadline:
        port = options.port
        if port == 0 or _who(port) == "nobody":
            started = _start(options)
            if started is None:  # another `taskobs view` was quicker, or somebody else
                joined = True
                time.sleep(AGAIN)
                continue
            port, joined = started, False
        if _attach(port, name):
            return Page(port=port, joined=joined)
        time.sleep(AGAIN)
    raise ViewError(f"the page at port {options.port} does not answer: choose another --port")


def _who(port: int) -> Literal["nobody", "us"]:
    """Tell who has a port; raises `ViewError` if it is somebody else."""
    user = _user_of(port)
    if user is not None and user != os.getuid():
        raise ViewError(
            f"port {port} is used by another user of this machine: choose another --port"
        )
    try:
        status, body = _identity(port)
    except ConnectionRefusedError:
        return "nobody"
    except (OSError, http.client.HTTPException):
        status, body = 0, b""
    if status == HTTPStatus.OK and b'"taskobs view"' in body:
        return "us"
    raise ViewError(
        f"port {port} is used by another program: choose another one with --port, "
        "the same for each process of the app"
    )


def _identity(port: int, left: int = ASKED) -> tuple[int, bytes]:
    """Ask what has a port; again if it drops the connection.

    A page that ends drops the connections that it no longer answers, before or while it closes
    its port. Asked again, nobody is there, or the next page.
    """
    try:
        return _ask("GET", port, IDENTITY)
    except (BrokenPipeError, ConnectionResetError):
        if left <= 1:
            raise
    time.sleep(AGAIN)
    return _identity(port, left - 1)


def _user_of(port: int) -> int | None:
    """Return the user whose process answers at a port of the loopback; None if nobody says.

    A listener on all addresses answers there, too, and one of IPv6 may.
    """
    users = [user for table, hosts in _TABLES.items() for user in _listeners(table, hosts, port)]
    others = [user for user in users if user != os.getuid()]
    return next(iter(others or users), None)


def _listeners(table: str, hosts: Collection[str], port: int) -> Iterator[int]:
    wanted = {f"{host}:{port:04X}" for host in hosts}
    try:
        lines = Path(table).read_text(encoding="ascii").splitlines()[1:]
    except OSError:
        return
    for row in map(str.split, lines):
        if row[1] in wanted and row[3] == _LISTEN:
            yield int(row[7])


def _attach(port: int, name: str) -> bool:
    body = json.dumps({"pid": os.getpid(), "name": name})
    try:
        status, _ = _ask("POST", port, ATTACH, body)
    except (OSError, http.client.HTTPException):
        return False
    return status == HTTPStatus.OK


def _ask(method: str, port: int, path: str, body: str = "") -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(HOST, port, timeout=ANSWER)
    try:
        connection.request(method, path, body, {"Content-Type": JSON})
        answer = connection.getresponse()
        return answer.status, answer.read(4096)
    finally:
        connection.close()


def is_served(port: int) -> bool:
    """Tell whether the page is there."""
    try:
        return _ask("GET", port, IDENTITY)[0] == HTTPStatus.OK
    except (OSError, http.client.HTTPException):
        return False


def _start(options: Options) -> int | None:
    """Start the process; return its port, or None if the port is in use.

    Raises:
        ViewError: it can't be started; the message has its last words.
    """
    command = [sys.executable, "-m", "taskobs.view.serving.serve", "--port", str(options.port)]
    command += ["--limit", str(options.limit), "--stay", str(options.stay)]
    reader, writer = os.pipe()
    try:
        run_detached(command, writer)
    finally:
        os.close(writer)
    with os.fdopen(reader, encoding="utf-8", errors="replace") as output:
        written = output.read().strip()
    if written.isdigit():
        return int(written)
    if written == IN_USE:
        return None
    last = (written or "it wrote nothing").splitlines()[-1]
    raise ViewError(f"the page can't be served: {last}")


def run_detached(command: list[str], output: int) -> None:
    """Start a process that is nobody's child, in a session of its own.

    This process is about to become the user's command, which knows nothing of such a child, and
    might wait for it or be told of its end. Ctrl-C in the terminal does not reach it.
    """
    child = os.fork()
    if child == 0:
        try:
            subprocess.Popen(  # noqa: S603  # our own command
                command,
                cwd="/",
                env=_environment(),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        finally:
            os._exit(0)
    os.waitpid(child, 0)


def _environment() -> dict[str, str]:
    """Return the environment: that of a relay, without the variables of telemetry.

    The directory is ``/``, as Python 3.10 looks for modules in the current one first, so entries
    of ``PYTHONPATH`` are made absolute.
    """
    kept = {k: v for k, v in relay_command.environment().items() if not k.startswith(FOREIGN)}
    path = kept.get("PYTHONPATH", "").split(os.pathsep)
    absolute = os.pathsep.join(str(Path(entry).absolute()) for entry in path if entry)
    return kept | ({"PYTHONPATH": absolute} if absolute else {})
