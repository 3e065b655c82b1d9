from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import socket
import stat
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from taskobs.protocol.startup import SEARCH_PATH
from taskobs.relay_client import relay_command, socket_directory
from taskobs.relay_client.launcher import Launcher

if not socket_directory.SUPPORTED:
    pytest.skip("no Unix sockets here", allow_module_level=True)

PATIENCE = 120.0
"""Seconds that a process may take to start, or to end, on a busy machine."""
# What it finds, it writes down; then it answers whoever connects, until it is told to end.
ANSWERS = "import os; os.write(5, b'1')"
STAND_IN = """
import json, os, socket, sys
os.write(5, b"1")
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
ENDS_SOON = ANSWERS + "; import time; time.sleep(0.3)"
IS_SILENT = "import time; time.sleep(600)"


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
                assert one.wait(PATIENCE)
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
        caller.settimeout(PATIENCE)
        caller.connect(address)
        return json.loads(caller.makefile("rb").read())


def listening_descriptor(launcher: Launcher) -> int:
    listener = launcher._listener  # pyright: ignore[reportPrivateUsage]
    assert listener is not None
    return listener.fileno()


def poll_until(launcher: Launcher, condition: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end
        launcher.poll()
        time.sleep(0.01)


def test_clients_may_connect_while_it_starts(bench: Bench) -> None:
    """My worker doesn't wait for its relay: what it writes meanwhile is read afterwards."""
    launcher = bench.launcher(STAND_IN)
    assert launcher.start()
    found = ask(launcher.address)
    assert found["settings"] == {"worker": "w@h", "header": "s3cret"}
    assert found["session"]
    assert not bench.warnings


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc")
def test_it_inherits_nothing_but_its_socket_and_memory(bench: Bench) -> None:
    """A port or a pipe of my worker's is not held open by its relay."""
    reader, writer = os.pipe()
    os.set_inheritable(writer, True)  # noqa: FBT003  # the standard library's
    launcher = bench.launcher(STAND_IN)
    assert launcher.start()
    # Standard ones, its three, and that of the listing.
    assert set(ask(launcher.address)["descriptors"]) <= set(range(7))
    os.close(reader)
    os.close(writer)


def test_its_settings_are_not_on_the_command_line() -> None:
    """`ps` shows whose relay it is, and no secrets."""
    command = relay_command.command("w@h")
    assert command[:3] == [sys.executable, "-m", "taskobs.relay"]
    assert command[3:] == ["--listen-fd", "3", "--control-fd", "5", "--worker", "w@h"]


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


def test_what_died_at_its_start_is_named(bench: Bench, capfd: pytest.CaptureFixture[str]) -> None:
    """A library is missing: I read which, in the one warning, and no traceback beside it."""
    launcher = bench.launcher("import nothing_of_that_name")
    assert launcher.start()
    poll_until(launcher, lambda: pass_time(bench) and not launcher.alive)
    [warning] = bench.warnings
    assert "No module named 'nothing_of_that_name'" in warning
    assert "Traceback" not in capfd.readouterr().err


def pass_time(bench: Bench) -> bool:
    bench.clock.now += 0.1
    return True


def test_what_it_logs_before_it_serves_is_shown(
    bench: Bench, capfd: pytest.CaptureFixture[str]
) -> None:
    """A warning about my spool, for one, is in my worker's log, in the order in which it came."""
    launcher = bench.launcher("import sys; sys.stderr.write('first\\n')\n" + STAND_IN)
    assert launcher.start()
    poll_until(launcher, lambda: launcher.started)
    assert capfd.readouterr().err == "first\n"


def test_one_that_has_not_answered_has_not_started(bench: Bench) -> None:
    """My worker does not wait, and knows when its relay serves."""
    launcher = bench.launcher("import sys; sys.stdin.read(); input_ = open(0)\n" + STAND_IN)
    assert launcher.start()
    assert not launcher.started
    poll_until(launcher, lambda: launcher.started)
    assert launcher.alive


def test_one_that_never_answers_is_given_up(bench: Bench) -> None:
    """What was started is no relay, or hangs: it is ended, and I read that."""
    launcher = bench.launcher(IS_SILENT)
    assert launcher.start()
    started: set[int | None] = set()
    while launcher.alive:
        started.add(launcher.pid)
        bench.clock.now += 61
        launcher.poll()
    assert bench.warnings == ["it died at its start 3 times, it gave no sign of life within 60 s"]
    for pid in started - {None}:
        with pytest.raises(ProcessLookupError):
            os.kill(pid or 0, 0)


def test_a_frozen_app_does_not_start_itself(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """`sys.executable` is my app itself: it would start as its own relay, without end."""
    app, started = tmp_path / "shop", tmp_path / "started"
    app.write_text(f"#!/bin/sh\ntouch {started}\n")
    app.chmod(0o700)
    frozen_python = tmp_path / "python3"
    os.link(app, frozen_python)
    for frozen, executable in ((False, app), (True, frozen_python), (False, None)):
        with monkeypatch.context() as patched:
            patched.setattr(sys, "frozen", frozen, raising=False)
            patched.setattr(sys, "executable", str(executable or ""))
            launcher = Launcher({}, warn=bench.warnings.append)
            assert not launcher.start()
            assert launcher.pid is None
    assert not started.exists()
    first, second, third = bench.warnings
    assert "shop isn't a Python interpreter" in first
    assert "the app is frozen" in second
    assert "the interpreter's own path is not known" in third


def test_an_app_that_was_started_as_a_relay_starts_none(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its executable looks like an interpreter, and is none: it is not started once more."""
    monkeypatch.setenv(SEARCH_PATH, "/somewhere")
    assert not Launcher({}, warn=bench.warnings.append).start()
    assert "was started as a relay" in bench.warnings[0]


def test_a_limit_on_processes_is_named(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """My container allows no further process: each sends its own, and I read why."""

    def no_more(*_: object, **__: object) -> int:
        raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

    monkeypatch.setattr(os, "posix_spawn", no_more)
    before = len(list(Path("/dev/fd").iterdir()))
    assert not bench.launcher(STAND_IN).start()
    [warning] = bench.warnings
    assert "Resource temporarily unavailable" in warning
    assert "RLIMIT_NPROC" in warning
    assert len(list(Path("/dev/fd").iterdir())) == before


def test_a_limit_on_processes_may_pass(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """My relay is killed while there are too many processes: the next one starts a little later."""
    launcher = bench.launcher(STAND_IN)
    assert launcher.start()
    ask(launcher.address)
    poll_until(launcher, lambda: launcher.started)
    first = launcher.pid
    assert first is not None
    bench.clock.now += 10

    def no_more(*_: object, **__: object) -> int:
        raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

    with monkeypatch.context() as limited:
        limited.setattr(os, "posix_spawn", no_more)
        os.kill(first, signal.SIGKILL)
        poll_until(launcher, lambda: launcher.pid is None)
    bench.clock.now += 10
    launcher.poll()
    assert launcher.pid is not None
    assert not bench.warnings


# Somebody removes the socket.


def test_a_socket_that_is_removed_is_made_again(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    """A logout removes `/run/user/UID` under my worker: I read it once, and clients connect."""
    launcher = bench.launcher(STAND_IN)
    assert launcher.start()
    assert launcher.memory is not None
    address = Path(launcher.address)
    for remove in (address.unlink, partial(shutil.rmtree, address.parent)):
        remove()
        launcher.poll()
        assert launcher.address == str(address) == launcher.memory.address
        assert stat.S_ISSOCK(address.stat().st_mode)
        assert stat.S_IMODE(address.parent.stat().st_mode) == 0o700
    assert caplog.text.count("somebody removed the relay's socket") == 1
    launcher.close()
    assert not address.exists()


def test_a_socket_whose_directory_cannot_be_made_again_is_elsewhere(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    launcher = bench.launcher(STAND_IN)
    assert launcher.start()
    address = launcher.address
    Path(address).parent.rename(Path(address).parents[1] / "moved")
    Path(address).parent.write_text("not a directory")
    with tempfile.TemporaryDirectory(prefix="t", dir="/tmp") as other:
        monkeypatch.setenv("XDG_RUNTIME_DIR", other)
        launcher.poll()
        assert launcher.address.startswith(other)
        assert launcher.memory is not None
        assert launcher.memory.address == launcher.address


def test_a_file_in_the_place_of_the_socket_is_left_alone(bench: Bench) -> None:
    launcher = bench.launcher(STAND_IN)
    assert launcher.start()
    address = Path(launcher.address)
    address.unlink()
    address.write_text("somebody's")
    launcher.poll()
    assert launcher.address != str(address)
    launcher.close()
    assert address.read_text() == "somebody's"


# What it is started with.


def test_a_relay_is_not_instrumented(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """I start my worker with `opentelemetry-instrument` or `ddtrace-run`: the relay is not traced.

    Their directories hold a `sitecustomize`, which Python runs when it starts. All else that I
    have set arrives.
    """
    bootstrap, modules, package = (tmp_path / name for name in ("bootstrap", "modules", "package"))
    for folder in (bootstrap, modules, package / "usercustomize"):
        folder.mkdir(parents=True)
    (bootstrap / "sitecustomize.py").touch()
    path = [str(bootstrap), str(modules), str(package), "/no/such/folder"]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path))
    monkeypatch.setenv("OTEL_PYTHON_CONFIGURATOR", "opentelemetry")
    monkeypatch.setenv("OTEL_PYTHON_EXPORTER_OTLP_HTTP_CREDENTIAL_PROVIDER", "mine")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "a=b")
    found = relay_command.environment()
    kept = found["PYTHONPATH"].split(os.pathsep)
    assert kept[:2] == [str(modules), "/no/such/folder"]
    assert not {str(bootstrap), str(package)} & set(kept)
    assert "OTEL_PYTHON_CONFIGURATOR" not in found
    assert found["OTEL_PYTHON_EXPORTER_OTLP_HTTP_CREDENTIAL_PROVIDER"] == "mine"
    assert found["OTEL_EXPORTER_OTLP_HEADERS"] == "a=b"


def test_the_folder_of_automatic_instrumentation_is_left_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    module = pytest.importorskip("opentelemetry.instrumentation.auto_instrumentation")
    folder = str(Path(module.__file__ or "").parent)
    monkeypatch.setenv("PYTHONPATH", folder)
    assert folder not in relay_command.environment().get("PYTHONPATH", "").split(os.pathsep)


def test_a_relay_gets_the_search_path_of_its_worker(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(sys, "path", ["", str(tmp_path), "/no/such/folder", str(tmp_path)])
    monkeypatch.chdir(tmp_path)
    assert relay_command.environment()[SEARCH_PATH] == str(tmp_path)


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
    assert launcher.wait(PATIENCE)
    assert launcher.pid is None
