"""A child process whose output can be waited on, and that never outlives its ``with`` block."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping, Sequence
    from types import FrameType, TracebackType

    from typing_extensions import Self

GRACE = 60.0
"""Seconds between TERM and KILL; Celery takes about 6 on this broker, 9 with a dead backend."""
HURRY = 3.0
"""The same, after an error or Ctrl-C."""


class Process:
    """A command in a session of its own; a Ctrl-C in the terminal does not reach it."""

    def __init__(self, command: Sequence[str], *, environment: Mapping[str, str]) -> None:
        """Say what to start; output and errors will be read together, line by line."""
        self._command = command
        self._environment = environment
        self._changed = threading.Condition()
        self._lines: list[str] = []
        self._ended = False
        self._stopped: int | None = None

    def _start(self) -> None:
        self._process = subprocess.Popen(  # noqa: S603  # our own command
            self._command,
            env=dict(self._environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read, name="taskobs-demo-output")
        self._reader.start()

    @property
    def lines(self) -> tuple[str, ...]:
        """What it wrote so far."""
        with self._changed:
            return tuple(self._lines)

    def wait_for_line(self, wanted: Callable[[str], bool], timeout: float) -> str | None:
        """Wait for a line, at most ``timeout`` seconds or until the output ends."""
        with self._changed:
            self._changed.wait_for(lambda: self._ended or any(map(wanted, self._lines)), timeout)
            return next(filter(wanted, self._lines), None)

    def wait(self, timeout: float) -> int | None:
        """Wait for its end; give its exit code, or None after ``timeout`` seconds."""
        try:
            code = self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            return None
        self._reader.join(timeout)
        return code

    def stop(self, grace: float = GRACE) -> int:
        """End it by TERM, and by KILL with all of its session after ``grace`` seconds."""
        if self._stopped is not None:
            return self._stopped
        if self._process.poll() is None:
            self._process.terminate()
        code = self.wait(grace)
        with suppress(ProcessLookupError, PermissionError):
            # The children that it left, or the whole session.
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._reader.join()
        self._stopped = code if code is not None else -signal.SIGKILL
        return self._stopped

    def _read(self) -> None:
        output = self._process.stdout
        if output is None:  # pragma: no cover  (a pipe was asked for)
            return
        with output:
            for line in output:
                with self._changed:
                    self._lines.append(line.rstrip("\n"))
                    self._changed.notify_all()
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def __enter__(self) -> Self:
        """Start it. Only from the main thread."""
        with _uninterrupted() as interrupts:
            self._start()
        if interrupts:
            with _uninterrupted():
                self.stop(HURRY)
            signal.raise_signal(interrupts[0])
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop it; sooner when something went wrong."""
        with _uninterrupted() as interrupts:
            self.stop(GRACE if error is None else HURRY)
        if interrupts and error is None:
            signal.raise_signal(interrupts[0])


@contextmanager
def _uninterrupted() -> Generator[list[int]]:
    """Collect Ctrl-C and TERM: a process half started, or half stopped, would be left behind."""
    collected: list[int] = []

    def collect(number: int, _: FrameType | None) -> None:
        collected.append(number)

    before = {number: signal.signal(number, collect) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield collected
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
