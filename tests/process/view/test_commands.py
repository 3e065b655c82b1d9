"""``taskobs view -- COMMAND``, as a user types it in one terminal, or in three."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING

import pytest

from tests.live.process import LIMIT, Program, wait_until
from tests.live.services import fetch, listens
from tests.live.view_page import identity, page_port

if TYPE_CHECKING:
    from collections.abc import Generator

HOLD = [sys.executable, "-c", "import sys; print('ready', flush=True); sys.stdin.read()"]
"""A command that runs until its input ends."""


@pytest.fixture
def port() -> Generator[int]:
    """A port whose page has ended at the end of the test, one way or the other."""
    with page_port() as chosen:
        yield chosen


def command_line(port: int, *command: str, stay: float = 0) -> list[str]:
    view = [sys.executable, "-m", "taskobs", "view", "--port", str(port), "--stay", str(stay)]
    return [*view, *(["--", *command] if command else [])]


def view(port: int, *command: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command_line(port, *command),
        env=os.environ | variables,
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
    )


@contextlib.contextmanager
def held(port: int) -> Generator[subprocess.Popen[str]]:
    """A command that runs until its input is closed."""
    with subprocess.Popen(
        command_line(port, *HOLD), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as running:
        try:
            assert running.stdout is not None
            assert running.stdout.readline() == "ready\n"
            yield running
        finally:
            running.communicate("")


@pytest.mark.parametrize(
    ("script", "status"), [("exit 7", 7), ("exit 0", 0), ("kill -TERM $$", -signal.SIGTERM)]
)
def test_the_command_ends_as_it_would_without(port: int, script: str, status: int) -> None:
    """My shell and my supervisor see the exit status and the signal of the command itself."""
    done = view(port, "sh", "-c", f"echo out; {script}")
    assert (done.returncode, done.stdout) == (status, "out\n")
    assert done.stderr == f"taskobs view: http://127.0.0.1:{port}, every trace is sampled\n"


def test_the_command_is_the_process_that_was_started(port: int) -> None:
    """Ctrl-C, TERM and the terminal are the command's: nothing stands between."""
    line = command_line(port, "sh", "-c", "echo $$")
    with subprocess.Popen(line, stdout=subprocess.PIPE, text=True) as running:
        printed, _ = running.communicate(timeout=LIMIT)
    assert printed == f"{running.pid}\n"


def test_a_broken_pipe_ends_the_command_as_usual(port: int) -> None:
    """Python ignores SIGPIPE, and a command that it becomes must not."""
    done = view(port, "sh", "-c", "yes | head -1; echo done")
    assert (done.stdout, done.returncode) == ("y\ndone\n", 0)
    assert "Broken pipe" not in done.stderr


def test_my_own_destinations_are_set_aside_and_named(port: int) -> None:
    """I am told which variables don't count here; their values, which are secret, are not shown."""
    dsn = "https://secret@sentry.example/1"
    done = view(port, "sh", "-c", "echo $SENTRY_DSN", SENTRY_DSN=dsn, OTEL_SDK_DISABLED="true")
    assert done.stdout == f"http://view@127.0.0.1:{port}/1\n"
    assert "set aside here: OTEL_SDK_DISABLED, SENTRY_DSN\n" in done.stderr
    assert "secret" not in done.stderr


@pytest.mark.parametrize(("name", "status"), [("no-such-command", 127), ("./notes.txt", 126)])
def test_a_command_that_is_none_is_named(
    port: int, tmp_path: Path, name: str, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """I mistype a command, and no page is started for it; the status is that of shells."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes.txt").touch(mode=0o644)
    done = view(port, name)
    assert done.returncode == status
    assert name in done.stderr
    assert not listens(port)


def test_celery_is_found_beside_the_interpreter(port: int) -> None:
    """I call taskobs by its path in a virtual environment that isn't active."""
    done = view(port, "celery", "--version", PATH="/usr/bin:/bin")
    assert done.returncode == 0, done.stderr


def test_three_terminals_share_one_page_that_outlives_each(port: int) -> None:
    """I start web, worker and beat with the same line, and stop any of them: the page goes on."""
    with contextlib.ExitStack() as worker, held(port):
        worker.enter_context(held(port))
        before = identity(port)
        assert f"joined http://127.0.0.1:{port}" in view(port, "true").stderr
        worker.close()
        assert identity(port) == before


def test_a_command_that_starts_while_the_page_ends_has_a_page(port: int) -> None:
    """I start one command after the other: each is on the page that is there, or on a new one."""
    for _ in range(4):
        done = view(port, "true")
        assert (done.returncode, done.stderr.count("taskobs view: ")) == (0, 1), done.stderr


def test_commands_that_start_at_once_share_one_page(port: int, tmp_path: Path) -> None:
    """Honcho starts all of them in the same moment: one serves the page, and all are on it."""
    ask = f"http://127.0.0.1:{port}/api/traces"
    wait = f"until [ -e {shlex.quote(str(tmp_path / 'go'))} ]; do sleep 0.05; done"
    with contextlib.ExitStack() as stack:
        programs = [
            stack.enter_context(
                Program(
                    command_line(port, "sh", "-c", wait),
                    log=tmp_path / f"{number}.log",
                    env=os.environ,
                )
            )
            for number in range(5)
        ]

        def attached() -> set[str]:
            if not listens(port):
                return set()
            return set(fetch(ask)["commands"])

        everybody = {f"sh ({program.pid})" for program in programs}
        assert wait_until(lambda: attached() == everybody, timeout=LIMIT), attached()
        (tmp_path / "go").touch()
        assert [program.wait() for program in programs] == [0] * 5


class Foreign(BaseHTTPRequestHandler):
    """Some other program's server."""

    def do_GET(self) -> None:
        """Answer as it likes."""
        self.send_error(404)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the base's name
        """Write nothing."""


def test_a_port_of_another_program_is_refused(port: int) -> None:
    """Something else has the port: nothing of mine is sent to it, and I am told what to do."""
    with HTTPServer(("127.0.0.1", port), Foreign) as other:
        serving = Thread(target=other.serve_forever)
        serving.start()
        done = view(port, "sh", "-c", "echo ran")
        other.shutdown()
        serving.join()
    assert (done.returncode, done.stdout) == (1, "")
    assert f"port {port} is used by another program: choose another one with --port" in done.stderr


def test_without_a_command_the_variables_are_printed(port: int, tmp_path: Path) -> None:
    """I set the variables where my processes are started, and Ctrl-C ends the page."""
    with Program(command_line(port), log=tmp_path / "log", env=os.environ) as program:
        program.wait_log("Ctrl-C")
        for line in (
            f"export OTEL_EXPORTER_OTLP_ENDPOINT=http://127.0.0.1:{port}",
            f"export SENTRY_DSN=http://view@127.0.0.1:{port}/1",
            "export TASKOBS_LOGS=otlp",
        ):
            assert line in program.log
        assert listens(port)
        assert program.stop("INT") == 0
    assert "Traceback" not in program.log


def test_a_page_whose_process_is_killed_says_so(port: int, tmp_path: Path) -> None:
    """Without a command, I learn that the page is no longer there."""
    with Program(command_line(port), log=tmp_path / "log", env=os.environ) as program:
        program.wait_log("Ctrl-C")
        os.kill(identity(port)["pid"], signal.SIGKILL)
        assert program.wait() == 1
    assert "has ended" in program.log


def test_a_module_of_mine_does_not_replace_the_standard_librarys(port: int, tmp_path: Path) -> None:
    """My folder has a json.py and a socket.py, and the page is served all the same."""
    for name in ("json", "socket", "argparse"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('mine')\n")
    taskobs = str(Path(sys.executable).parent / "taskobs")
    options = ["view", "--port", str(port), "--stay", "0", "--", "echo", "ran"]
    done = subprocess.run(
        [taskobs, *options],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "ran\n"), done.stderr


def test_any_free_port_is_served(tmp_path: Path) -> None:
    """With --port 0 each command has a page of its own, whose port is printed."""
    with Program(command_line(0, "cat"), log=tmp_path / "log", env=os.environ) as program:
        assert program.wait() == 0
    url = program.log.split()[2].rstrip(",")
    found = int(url.rpartition(":")[2])
    assert found != 0
    assert wait_until(lambda: not listens(found), timeout=LIMIT)
