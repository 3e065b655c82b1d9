"""Follow docs/tutorial/first-trace.md as a newcomer does, in a clean clone, with git and Python.

Each command of the page is run as it is written, but for `--open`, and on a free port. Then the
page of `taskobs view` has to show the order that went well, and the failed one with its error.

Exit status: 0 if it does in time; 1 if not.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from http.client import HTTPException
from pathlib import Path
from typing import Any, Final, NamedTuple
from urllib.request import ProxyHandler, build_opener

ROOT: Final = Path(__file__).resolve().parent.parent
TUTORIAL: Final = Path("docs/tutorial/first-trace.md")
LIMIT: Final = 180.0
"""Seconds that all of it may take, and that a step may take by itself."""
ACTIVATE: Final = ". .venv/bin/activate"
OTHERS: Final = ("CELERY_", "COVERAGE_", "OTEL_", "SENTRY_", "TASKOBS_", "VIRTUAL_ENV")
"""How variables begin that a newcomer doesn't have set."""
_FENCED: Final = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_URL: Final = re.compile(r"http://127\.0\.0\.1:(\d+)")
_ask: Final = build_opener(ProxyHandler({})).open


class PathError(Exception):
    """A newcomer would be stuck here."""


class Tutorial(NamedTuple):
    """What the page says to write and to type."""

    install: list[list[str]]
    file: str
    app: str
    folder: list[str]
    worker: list[str]
    orders: list[list[str]]

    @classmethod
    def read(cls, page: Path) -> Tutorial:
        """Read the page."""
        blocks = _FENCED.findall(page.read_text(encoding="utf-8"))
        install, folder, worker, orders = (
            [shlex.split(line) for line in text.splitlines() if line != ACTIVATE]
            for language, text in blocks
            if language == "bash"
        )
        [app] = [text for language, text in blocks if language == "python"]
        file = app.partition("\n")[0].removeprefix("# ")
        return cls(install, file, app, folder[0], worker[0], orders)


def environment(programs: Path) -> dict[str, str]:
    """Return the variables of a newcomer who has activated an environment."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(OTHERS)}
    return kept | {"PATH": f"{programs}{os.pathsep}{kept.get('PATH', os.defpath)}"}


def follow(tutorial: Tutorial, folder: Path, env: Mapping[str, str]) -> dict[str, float]:
    """Write the app and type the commands, in a folder; return after how many seconds was what.

    Raises:
        PathError: a command fails, or the page does not show what the tutorial says.
    """
    started = time.monotonic()
    took: dict[str, float] = {}

    def note(what: str) -> None:
        took[what] = time.monotonic() - started

    (folder / tutorial.file).write_text(tutorial.app, encoding="utf-8")
    run(tutorial.folder, folder, env)
    with worker(on_port(tutorial.worker, 0), folder, env) as (process, page):
        note("the worker is ready")
        for order in tutorial.orders:
            with paused(process):
                run(on_port(order, int(page.rpartition(":")[2])), folder, env)
        note("two orders are placed")
        until("the page shows both orders", lambda: shows_both(page))
        note("the failed one is on the page, with its error")
    until("the page ends, as nobody uses it", lambda: not answers(page))
    return took


def on_port(command: Sequence[str], port: int) -> list[str]:
    """Return a command of `taskobs view` with a port of our own, and without a browser."""
    if [*command[:2]] != ["taskobs", "view"]:
        raise PathError(f"{shlex.join(command)}: not a command of `taskobs view`")
    rest = [word for word in command[2:] if word != "--open"]
    return ["taskobs", "view", f"--port={port}", "--stay=1", *rest]


def run(command: Sequence[str], folder: Path, env: Mapping[str, str]) -> None:
    """Run a command to its end.

    Raises:
        PathError: its exit status is not 0.
    """
    done = subprocess.run(
        command, cwd=folder, env=env, capture_output=True, text=True, timeout=LIMIT, check=False
    )
    if done.returncode:
        raise PathError(f"{shlex.join(command)} ended with {done.returncode}: {done.stderr}")


@contextmanager
def worker(
    command: Sequence[str], folder: Path, env: Mapping[str, str]
) -> Generator[tuple[subprocess.Popen[bytes], str]]:
    """Run a worker in a process group of its own; give it and the page's address once ready."""
    log = folder / "worker.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, cwd=folder, env=env, stdout=output, stderr=output, start_new_session=True
        )
    try:
        until("the worker is ready", lambda: process.poll() is not None or " ready." in text(log))
        found = _URL.search(text(log))
        if found is None or process.poll() is not None:
            raise PathError(f"the worker has not started: {text(log)}")
        yield process, found[0]
        process.terminate()
        process.wait(LIMIT)
    finally:
        end_group(process)


@contextmanager
def paused(process: subprocess.Popen[bytes]) -> Generator[None]:
    """Stop a worker from looking into the broker's folder while a message is written there.

    kombu 5.7 makes a message's file before it writes the content. A worker that looks once a
    second hardly ever reads it in between, but one that does loses the message, and ends.
    """
    process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        process.send_signal(signal.SIGCONT)


def end_group(process: subprocess.Popen[bytes]) -> None:
    """End what is left of the process group."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait(LIMIT)


def text(log: Path) -> str:
    """Return what a log file has by now."""
    return log.read_text(encoding="utf-8", errors="replace")


def until(what: str, condition: Callable[[], bool]) -> None:
    """Wait for a condition.

    Raises:
        PathError: it is not true in time.
    """
    deadline = time.monotonic() + LIMIT
    while not condition():
        if time.monotonic() > deadline:
            raise PathError(f"not so within {LIMIT:g} s: {what}")
        time.sleep(0.1)


def fetched(url: str) -> Mapping[str, Any]:
    """Return what the page would be given."""
    with _ask(url, timeout=LIMIT) as answer:
        found: Mapping[str, Any] = json.load(answer)
    return found


def answers(page: str) -> bool:
    """Tell whether the page is served."""
    try:
        fetched(f"{page}/api/view")
    except (OSError, HTTPException):  # it has ended, or ends within the answer
        return False
    return True


def shows_both(page: str) -> bool:
    """Tell whether the page has the order that went well, and all of the one that failed."""
    traces = fetched(f"{page}/api/traces")["traces"]
    found = {outcome: trace for trace in traces for outcome in trace["outcomes"]}
    if {*found} != {"succeeded", "failed"}:
        return False
    whole = json.dumps(fetched(f"{page}/api/trace/{found['failed']['trace_id']}"))
    counts = found["failed"]["counts"]
    said = "ValueError" in whole and "insufficient funds" in whole
    return said and (counts.get("span"), counts.get("event")) == (2, 1)


def main() -> int:
    """Return the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--limit", type=float, default=LIMIT, help=f"seconds ({LIMIT:g})")
    limit: float = parser.parse_args().limit
    with tempfile.TemporaryDirectory(prefix="taskobs-newcomer-") as name:
        folder = Path(name) / "taskobs"
        try:
            seconds = clean_clone(folder)
        except PathError as error:
            print(f"newcomer: {error}", file=sys.stderr)
            return 1
    print(f"newcomer: {seconds:.0f} s in all, of {limit:g}")
    return 0 if seconds <= limit else 1


def clean_clone(folder: Path) -> float:
    """Clone HEAD, install it, and follow its tutorial; return how many seconds that took."""
    started = time.monotonic()
    env = environment(folder / ".venv/bin")
    run(["git", "clone", "--quiet", str(ROOT), str(folder)], ROOT, env)
    tutorial = Tutorial.read(folder / TUTORIAL)
    for command in tutorial.install:
        run([sys.executable if word == "python3" else word for word in command], folder, env)
    installed = time.monotonic() - started
    print(f"[{installed:4.0f}s] installed")
    for what, after in follow(tutorial, folder, env).items():
        print(f"[{installed + after:4.0f}s] {what}")
    return time.monotonic() - started


if __name__ == "__main__":
    sys.exit(main())
