"""Start real programs for a test, and leave none of their processes behind."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from typing_extensions import Self

TICK = 0.05
"""Seconds between two looks at something that can't be waited on."""
PATIENCE = 10.0
"""Seconds that a program gets at the end of a ``with`` to stop by itself."""
LIMIT = 120.0
"""Seconds after which something won't come any more. It comes in one or two where nothing else
runs; a busy machine takes long, and no test is about that."""
LASTING: set[int] = set()
"""The processes that may be there after a test."""


class ProgramError(AssertionError):
    """A program did not do what the test waited for; the message ends with its log."""


def wait_until(condition: Callable[[], bool], *, timeout: float, tick: float = TICK) -> bool:
    """Look at ``condition`` until it is true, at most ``timeout`` seconds; say whether it is."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() >= deadline:
            return False
        time.sleep(tick)
    return True


class Program:
    """A program in a process group of its own, its output in a log file.

    Use it as a context manager: at the end, also after a failure, the whole group is ended.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        log: Path,
        env: Mapping[str, str],
        cwd: Path | None = None,
        lasting: bool = False,
    ) -> None:
        """Start at once; ``env`` is the whole environment.

        A ``lasting`` one serves many tests and keeps nothing: its end is short.
        """
        self.log_file = log
        self.patience = 0 if lasting else PATIENCE
        with log.open("ab") as output:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=dict(env),
                cwd=cwd,
                start_new_session=True,
            )
        self.name = Path(command[0]).name
        if lasting:
            LASTING.add(self.pid)

    @property
    def pid(self) -> int:
        """The id of the process, and of its group."""
        return self.process.pid

    @property
    def log(self) -> str:
        """All that it printed so far."""
        return self.log_file.read_text(errors="replace")

    @property
    def running(self) -> bool:
        """Whether the program's first process is still there."""
        return self.process.poll() is None

    def tail(self, lines: int = 60) -> str:
        """The last lines of the log, for a message."""
        last = "\n".join(self.log.splitlines()[-lines:])
        return f"--- the end of {self.log_file} ---\n{last}"

    def wait_ready(self, ready: Callable[[], bool], *, timeout: float = LIMIT) -> None:
        """Wait until ``ready()``; raises `ProgramError` if it ends or ``timeout`` seconds pass."""
        if not wait_until(lambda: not self.running or ready(), timeout=timeout):
            msg = f"{self.name} was not ready after {timeout} s\n{self.tail()}"
            raise ProgramError(msg)
        if not self.running:
            msg = f"{self.name} ended at its start with {self.process.returncode}\n{self.tail()}"
            raise ProgramError(msg)

    def wait_log(self, text: str, *, timeout: float = LIMIT) -> None:
        """Wait until the log holds ``text``."""
        if not wait_until(lambda: text in self.log, timeout=timeout):
            msg = f"{self.name} did not log {text!r} within {timeout} s\n{self.tail()}"
            raise ProgramError(msg)

    def signal(self, name: str) -> None:
        """Send it ``"TERM"``, ``"QUIT"``, ``"INT"``, ``"KILL"``, …; its children get nothing."""
        self.process.send_signal(signal.Signals[f"SIG{name}"])

    def wait(self, *, timeout: float = LIMIT) -> int:
        """Wait for its end and give the exit status; negative for a signal."""
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            msg = f"{self.name} did not end within {timeout} s\n{self.tail()}"
            raise ProgramError(msg) from None

    def stop(self, name: str = "TERM", *, timeout: float = LIMIT) -> int:
        """Signal it and wait for its end; gives the exit status."""
        if self.running:
            self.signal(name)
        return self.wait(timeout=timeout)

    def end(self) -> None:
        """End it and whatever else is left of its group: first by SIGTERM, then by SIGKILL."""
        if self.running and self.patience:
            self.signal("TERM")
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(self.patience)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self.process.wait()

    def __enter__(self) -> Self:
        """Give the program, which runs already."""
        return self

    def __exit__(self, _kind: object, error: object, _traceback: object) -> None:
        """End it; print the end of its log when the test failed."""
        self.end()
        if error is not None:
            print(self.tail())  # noqa: T201  # pytest shows it with the failure
