"""Child processes that answer a line with a line, and the receiver that all of them export to."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final, cast

if TYPE_CHECKING:
    from typing_extensions import Self

ROOT: Final = Path(__file__).resolve().parent.parent
PATIENCE: Final = 15.0
"""Seconds that a process gets to end by itself: the relay's own bound lies within."""
_RECEIVER: Final = """
import sys
from bench.agent import agent
from taskobs.testing.receiver import Receiver
with Receiver() as receiver, agent() as url:
    print(receiver.endpoint, receiver.dsn, url, flush=True)
    while sys.stdin.readline():
        receiver.clear()
"""


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """Give an environment in which nothing is configured but ``extra``.

    Modules are compiled once, as those of an installed package are; coverage would take its time.
    """
    libraries = ("OTEL_", "SENTRY_", "TASKOBS_", "DD_", "NEW_RELIC_")
    foreign = (*libraries, "PYTHONDONTWRITEBYTECODE", "COVERAGE_")
    kept = {key: value for key, value in os.environ.items() if not key.startswith(foreign)}
    return {**kept, "PYTHONPATH": str(ROOT), **(extra or {})}


class Process:
    """A child process that answers a line with a line."""

    def __init__(self, *command: str, env: Mapping[str, str] | None = None) -> None:
        self._process = subprocess.Popen(  # noqa: S603  # ours, with fixed arguments
            [sys.executable, *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=environment(env),
        )

    def read(self) -> str:
        """Read one line; raises RuntimeError if the process has ended."""
        line = cast("IO[str]", self._process.stdout).readline().strip()
        if not line:
            raise RuntimeError(f"{self._process.args!r} ended with {self._process.wait()}")
        return line

    def write(self, line: str) -> None:
        """Write one line."""
        into = cast("IO[str]", self._process.stdin)
        into.write(line + "\n")
        into.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(subprocess.TimeoutExpired):
            self._process.communicate(timeout=PATIENCE)
            return
        self._process.kill()
        self._process.communicate()


class Receiver(Process):
    """Receives what the others export, and drops it on request.

    ``agent`` is the URL of what answers as Datadog's agent does, in the same process.
    """

    def __init__(self) -> None:
        super().__init__("-c", _RECEIVER)
        self.target = self.endpoint, self.dsn, self.agent = self.read().split()

    def clear(self) -> None:
        """Drop what has arrived."""
        self.write("clear")
