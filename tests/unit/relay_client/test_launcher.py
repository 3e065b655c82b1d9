from __future__ import annotations

import json
import os
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import Any

import pytest

from taskobs.relay_client import socket_directory
from taskobs.relay_client.launcher import Launcher

if not socket_directory.SUPPORTED:
    pytest.skip("no Unix sockets here", allow_module_level=True)

# What it finds, it writes down; then it answers whoever connects, until it is told to end.
STAND_IN = """
import json, os, socket, sys
listening = socket.socket(fileno=3)
told = {
    "settings": json.loads(sys.stdin.read()),
    "session": os.getsid(0) == os.getpid(),
    "descriptors": sorted(int(name) for name in os.listdir("/proc/self/fd")),
    "arguments": sys.argv[1:],
}
listening.setblocking(True)
while True:
    connection, _ = listening.accept()
    connection.sendall(json.dumps(told).encode())
    connection.close()
"""
DIES = "import sys; sys.exit(7)"
ENDS_SOON = "import time; time.sleep(0.3)"


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


class Bench:
    """Makes launchers, and ends what they have started."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.warnings: list[str] = []
        self.made: list[Launcher] = []

    def launcher(self, script: str | Sequence[str]) -> Launcher:
        command = [sys.executable, "-c", script] if isinstance(script, str) else script
        made = Launcher(
            {"worker": "w@h", "header": "s3cret"},
            warn=self.warnings.append,
            command=command,
            clock=self.clock,
        )
        self.made.append(made)
        return made

    def end(self) -> None:
        for one in self.made:
            if one.pid is not None:
                os.kill(one.pid, signal.SIGKILL)
                assert one.wait(5)
            one.close()


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Generator[Bench]:
    with tempfile.TemporaryDirectory(prefix="t", dir="/tmp") as made:
        monkeypatch.setenv("XDG_RUNTIME_DIR", made)  # short, as a socket's name must be
        one = Bench()
        yield one
        one.end()


def nowhere(_: object) -> list[Path]:
    return [Path("/proc/nowhere")]


def ask(address: str) -> Any:
    with socket.socket(socket.AF_UNIX) as caller:
        caller.settimeout(20)
        caller.connect(address)
        return json.loads(caller.makefile("rb").read())


def listening_descriptor(launcher: Launcher) -> int:
    listening = launcher._listening  # pyright: ignore[reportPrivateUsage]
    assert listening is not None
    return listening.fileno()


def poll_until(launcher: Launcher, condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < end
        launcher.poll()
        time.sleep(0.01)


def test_clients_may_connect_while_it_starts(bench: Bench) -> None:
    """My worker doesn't wait for its relay: what it writes meanwhile is read afterwards."""
    launcher = bench.launcher(STAND_IN)
    assert launcher.start()
    told = ask(launcher.address)
    assert told["settings"] == {"worker": "w@h", "header": "s3cret"}
    assert told["session"]
    assert not bench.warnings


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc")
def test_it_inherits_nothing_but_its_socket_and_memory(bench: Bench) -> None:
    """A port or a pipe of my worker's is not held open by its relay."""
    reader, writer = os.pipe()
    os.set_inheritable(writer, True)  # noqa: FBT003  # the standard library's
    launcher = bench.launcher(STAND_IN)
    assert launcher.start()
    assert set(ask(launcher.address)["descriptors"]) <= {0, 1, 2, 3, 4, 5}  # one is that of /proc
    os.close(reader)
    os.close(writer)


def test_its_settings_are_not_on_the_command_line(bench: Bench) -> None:
    """`ps` shows whose relay it is, and no secrets."""
    made = Launcher({"worker": "w@h", "header": "s3cret"}, warn=bench.warnings.append)
    command = made._command  # pyright: ignore[reportPrivateUsage]
    assert command[1:] == ["-m", "taskobs.relay", "--listen-fd", "3", "--worker", "w@h"]


def test_one_that_dies_is_started_again(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    """Somebody kills my relay: the next one answers at the same address, and I am told."""
    launcher = bench.launcher(STAND_IN)
    assert launcher.start()
    ask(launcher.address)
    first = launcher.pid
    assert first is not None
    bench.clock.now += 10
    os.kill(first, signal.SIGKILL)
    poll_until(launcher, lambda: launcher.pid not in (None, first))
    assert ask(launcher.address)["session"]
    assert "the relay died, signal 9" in caplog.text


def test_one_that_dies_again_and_again_is_given_time(bench: Bench) -> None:
    launcher = bench.launcher(ENDS_SOON)
    assert launcher.start()
    pauses: list[float] = []
    for _ in range(4):
        bench.clock.now += 10
        poll_until(launcher, lambda: launcher._deaths > len(pauses))  # pyright: ignore[reportPrivateUsage]
        began = bench.clock.now
        while launcher.pid is None:
            bench.clock.now += 0.5
            launcher.poll()
        pauses.append(bench.clock.now - began)
    assert pauses == [0, 1, 2, 4]
    assert launcher.alive


def test_one_that_dies_at_each_start_is_given_up(bench: Bench) -> None:
    """My relay can't start: I read why, once, and clients find nobody there."""
    launcher = bench.launcher(DIES)
    assert launcher.start()

    def given_up() -> bool:
        bench.clock.now += 1
        return not launcher.alive

    end = time.monotonic() + 120
    while launcher.alive:
        assert time.monotonic() < end
        launcher.poll()
        if launcher.pid is None:
            bench.clock.now += 1
        time.sleep(0.01)
    assert given_up()
    assert bench.warnings == ["it died at its start 3 times, exit status 7"]
    assert not Path(launcher.address).exists()
    launcher.poll()
    assert len(bench.warnings) == 1


def test_one_that_cannot_be_started_is_given_up(bench: Bench) -> None:
    launcher = bench.launcher(["/no/such/python"])
    assert not launcher.start()
    [warning] = bench.warnings
    assert "can't be started" in warning
    assert "No such file" in warning
    assert not Path(launcher.address).exists()


def test_without_a_place_for_its_socket_there_is_none(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket_directory, "candidates", nowhere)
    assert not bench.launcher(DIES).start()
    assert "no place for its socket: /proc/nowhere" in bench.warnings[0]


def test_a_forked_child_leaves_it_alone(bench: Bench) -> None:
    """A child holds no copy of the socket, so that its end is seen when the worker is gone."""
    launcher = bench.launcher(STAND_IN)
    assert launcher.start()
    descriptor = listening_descriptor(launcher)
    pid = os.fork()
    if not pid:
        status = 1
        try:
            launcher.after_fork()
            launcher.poll()
            launcher.close()
            os.fstat(descriptor)
        except OSError:
            status = 0
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert ask(launcher.address)["session"]


def test_closing_leaves_the_relay_to_end_by_itself(bench: Bench) -> None:
    launcher = bench.launcher(ENDS_SOON)
    assert launcher.start()
    launcher.close()
    launcher.close()
    assert not Path(launcher.address).exists()
    assert launcher.wait(5)
    assert launcher.pid is None
