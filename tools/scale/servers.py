"""The processes of the measurement: workers, publishers, and programs in general."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from bench.children import PATIENCE, ROOT, environment
from bench.workers import wait_until

APP: Final = "tools.scale.app"
QUIET: Final = 1.3
"""Seconds without a request after which a relay has sent all: it waits one for more."""


@contextmanager
def program(*command: str, env: Mapping[str, str]) -> Generator[Callable[[], str]]:
    """Run a program until the end of the block; gives what reads its log."""
    with tempfile.NamedTemporaryFile() as log:
        path = Path(log.name)

        def read() -> str:
            return path.read_text(encoding="utf-8", errors="replace")

        process = subprocess.Popen(
            command, stdout=log, stderr=subprocess.STDOUT, env=environment(env), cwd=ROOT
        )
        try:
            yield read
        finally:
            process.terminate()
            try:
                process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@contextmanager
def worker(env: Mapping[str, str], children: int = 2) -> Generator[None]:
    """Run a prefork worker of the app, once it is ready."""
    command = [sys.executable, "-m", "celery", "-A", APP, "worker", "-l", "INFO"]
    command += ["-c", str(children), "--without-gossip", "--without-mingle"]
    with program(*command, env=env) as log:
        wait_until(lambda: " ready." in log())
        yield


def publish(tasks: int, *, names: int, spans: int, failing: bool, env: Mapping[str, str]) -> None:
    """Publish tasks, from a process of its own that ends as any script does."""
    numbers = map(str, (tasks, names, spans, int(failing)))
    subprocess.run(
        [sys.executable, "-m", APP, *numbers], env=environment(env), cwd=ROOT, check=True
    )


def wait_quiet(last: Callable[[], float]) -> None:
    """Wait until the last request, by its time, is a while ago."""
    wait_until(lambda: time.monotonic() - last() > QUIET)
