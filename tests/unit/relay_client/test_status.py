"""`taskobs status`, against what stands for a relay."""

from __future__ import annotations

import json
import os
import re
import tempfile
import threading
from collections.abc import Generator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest
from click.testing import CliRunner

from taskobs.cli.main import main
from taskobs.internal import pids
from taskobs.protocol.frames import FrameKind, Splitter, encode, pack
from taskobs.relay_client import socket_directory, status

if not socket_directory.SUPPORTED:
    pytest.skip("no Unix sockets here", allow_module_level=True)

COUNTS = {
    "worker": "celery@host",
    "service": "shop",
    "since": 1.0,
    "exported": {"span": 40, "envelope": 2, "log": 9},
    "pending": {"span": 3, "envelope": 0},
    "dropped": {"span": {"more waits than there is room for": 5}},
    "clients": 4,
    "open": 1,
}


@pytest.fixture(autouse=True)
def home(monkeypatch: pytest.MonkeyPatch) -> Generator[None]:
    with tempfile.TemporaryDirectory(prefix="t", dir="/tmp") as made:
        path = Path(made)  # short, as a socket's name must be; the user's own workers are elsewhere

        def candidates(_: object) -> list[Path]:
            return [path]

        monkeypatch.setattr(socket_directory, "candidates", candidates)
        # A busy machine may take longer than the two seconds that the command waits.
        monkeypatch.setattr(status, "every", partial(status.every, timeout=60.0))
        yield


@contextmanager
def relay(reply: bytes | None) -> Generator[str]:
    """Answer one question; None hangs up."""
    listening, address = socket_directory.listen({})
    listening.setblocking(True)  # noqa: FBT003  # the standard library's

    def serve() -> None:
        wire, _ = listening.accept()
        with wire:
            assert Splitter().feed(wire.recv(100)) == [(FrameKind.STATUS, b"")]
            if reply is not None:
                wire.sendall(reply[:3])
                wire.sendall(reply[3:])

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield address
    finally:
        thread.join()
        listening.close()


def test_each_worker_is_a_line() -> None:
    """I ask what became of my telemetry, and what was dropped, and why."""
    with relay(encode(FrameKind.STATUS_REPLY, pack(COUNTS))):
        shown = CliRunner().invoke(main, ["status"]).output
    head, line, *notes = shown.splitlines()
    found = dict(zip(head.split(), line.split(), strict=True))
    assert (found["WORKER"], found["SERVICE"]) == ("celery@host", "shop")
    assert found["PID"] == str(os.getpid())
    assert re.fullmatch(r"(\d+[dhm])?\d+[hms]", found["AGE"])
    assert (found["SENT"], found["WAITING"], found["DROPPED"]) == ("51", "3", "5")
    assert (found["PROCESSES"], found["OPEN"]) == ("4", "1")
    assert [note.strip() for note in notes] == [
        "dropped 5 span(s): more waits than there is room for"
    ]


@pytest.mark.parametrize(
    ("age", "shown"),
    [
        (None, "?"),
        (0.4, "0s"),
        (59.9, "59s"),
        (60.0, "1m0s"),
        (3_725.0, "1h2m"),
        (90_000.0, "1d1h"),
    ],
)
def test_an_age_is_short(age: float | None, shown: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two workers with one name, I see which is the older one."""

    def told(_: int) -> float | None:
        return age

    monkeypatch.setattr(pids, "age", told)
    line = status.table([status.Status(1, "", COUNTS)]).splitlines()[1]
    assert line.split()[3] == shown


def test_json_has_all() -> None:
    with relay(encode(FrameKind.STATUS_REPLY, pack(COUNTS))) as address:
        [counts] = json.loads(CliRunner().invoke(main, ["status", "--json"]).output)
    assert counts["address"] == address
    assert counts["age"] >= 0
    assert {key: counts[key] for key in COUNTS} == COUNTS


@pytest.mark.parametrize(
    ("reply", "problem"),
    [
        (None, "it hung up"),
        (encode(FrameKind.STATUS_REPLY, pack([1])), "no map"),
        (b"\xff\xff\xff\xff\x01garbage", "no frame of the relay"),
    ],
)
def test_a_relay_that_gives_no_answer_is_named(reply: bytes | None, problem: str) -> None:
    with relay(reply) as address:
        result = CliRunner().invoke(main, ["status"])
    assert result.exit_code == 0
    assert address in result.output
    assert problem in result.output


def test_a_relay_that_hangs_is_not_waited_for() -> None:
    listening, _ = socket_directory.listen({})
    with listening:
        [one] = status.every({}, timeout=0.1)
    assert one.problem == "it gave no answer"


def test_without_a_worker_it_says_so() -> None:
    result = CliRunner().invoke(main, ["status"])
    assert (result.exit_code, result.output) == (0, "No worker of this user has a relay here.\n")
