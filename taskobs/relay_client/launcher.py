"""Starts the relay of a worker, and starts it again when it has died.

No thread: whoever has a clock calls ``poll`` now and then. The listening socket belongs to the
worker, so that its processes can connect, and write, while the relay is being started.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

from taskobs.protocol.shared_memory import SharedMemory
from taskobs.protocol.signals import BLOCKED_AT_START
from taskobs.relay_client import socket_directory

_log: Final = logging.getLogger("taskobs")
_LISTEN_FD: Final = 3
_MEMORY_FD: Final = 4
_HIGH_FD: Final = 10
_PAUSES: Final = (0.0, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0)
"""Seconds between a death and the next start: the first is replaced at once."""
_YOUNG: Final = 5.0
"""A relay that dies before it is as old as this, in seconds, died at its start."""
_DEATHS_AT_START: Final = 3
_OLD: Final = 60.0
"""One that dies older than this begins with the first pause again."""
_TICK: Final = 0.01


class Launcher:
    """The relay process of this worker.

    ``warn`` is told once, in words for a person, when there will be no relay. Not thread-safe.
    """

    def __init__(
        self,
        configuration: Mapping[str, object],
        *,
        warn: Callable[[str], object],
        command: Sequence[str] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._configuration = json.dumps(configuration).encode()
        self._command = list(command or _command(str(configuration.get("worker") or "")))
        self._warn = warn
        self._clock = clock
        self._listening: socket.socket | None = None
        self._pid: int | None = None
        self._born = self._due = 0.0
        self._deaths = self._deaths_at_start = 0
        self.address = ""
        self.memory: SharedMemory | None = None
        """What the relay shares with this process and its children."""

    @property
    def alive(self) -> bool:
        """Whether clients may connect: there is a relay, or there will be one again."""
        return self._listening is not None

    @property
    def pid(self) -> int | None:
        """The relay's process id; None while there is none."""
        return self._pid

    def start(self) -> bool:
        """Listen and start the relay, without waiting for it; tell whether that worked."""
        try:
            self._listening, self.address = socket_directory.listen(os.environ)
        except OSError as error:
            self._give_up(f"there is no place for its socket: {error}")
            return False
        self.memory = SharedMemory.create()
        self._spawn()
        return self.alive

    def poll(self) -> None:
        """Look after the relay; call it every second or so. Returns at once."""
        if self._listening is None:
            return
        if self._pid is None:
            if self._clock() >= self._due:
                self._spawn()
            return
        status = _ended(self._pid)
        if status is not None:
            self._died(status)

    def wait(self, timeout: float) -> bool:
        """Wait at most ``timeout`` seconds for the relay to end by itself; tell whether it has."""
        end = time.monotonic() + timeout
        while self._pid is not None:
            if _ended(self._pid) is not None:
                self._pid = None
            elif time.monotonic() >= end:
                return False
            else:
                time.sleep(_TICK)
        return True

    def close(self) -> None:
        """Listen no more and leave no socket behind; the relay goes on until it is done."""
        listening, self._listening = self._listening, None
        if listening is not None:
            listening.close()
            with suppress(OSError):
                Path(self.address).unlink()

    def after_fork(self) -> None:
        """In a forked child: the relay is the parent's."""
        listening, self._listening = self._listening, None
        self._pid = None
        if listening is not None:
            with suppress(OSError):
                os.close(listening.detach())

    def _died(self, status: int) -> None:
        age = self._clock() - self._born
        self._pid = None
        self._deaths_at_start = self._deaths_at_start + 1 if age < _YOUNG else 0
        if self._deaths_at_start >= _DEATHS_AT_START:
            self._give_up(f"it died at its start {_DEATHS_AT_START} times, {_how(status)}")
            return
        self._deaths = 0 if age > _OLD else self._deaths
        pause = _PAUSES[min(self._deaths, len(_PAUSES) - 1)]
        self._deaths += 1
        self._due = self._clock() + pause
        _log.warning(
            "taskobs: the relay died, %s; it is started again %s",
            _how(status),
            f"in {pause:.0f} s" if pause else "at once",
        )
        if not pause:
            self._spawn()

    def _spawn(self) -> None:
        assert self._listening is not None  # noqa: S101  # callers have looked
        self._born = self._clock()
        try:
            self._pid = _spawn(
                self._command, self._listening.fileno(), self._configuration, self.memory
            )
        except (OSError, NotImplementedError, ValueError) as error:
            self._give_up(f"it can't be started: {error}")

    def _give_up(self, why: str) -> None:
        if self.memory is not None:
            self.memory.abandon()
        self.close()
        self._warn(why)


def _command(worker: str) -> list[str]:
    """Return the command line, which tells in ``ps`` whose relay it is, and no secrets."""
    return [
        sys.executable,
        "-m",
        "taskobs.relay",
        "--listen-fd",
        str(_LISTEN_FD),
        "--worker",
        worker,
    ]


def _spawn(
    command: list[str], listening: int, configuration: bytes, memory: SharedMemory | None
) -> int:
    """Start a process in a session of its own, so that Ctrl-C is not for it; return its id.

    ``subprocess`` is not used: gevent and eventlet replace it, and it would complain, when the
    worker ends, that the relay has not.

    Raises:
        OSError: it can't be started.
    """
    if not command[0]:
        raise FileNotFoundError("the interpreter's own path is not known")
    with _filled_pipe(configuration) as stdin, _high(listening) as socket_fd:
        actions: list[Any] = [
            (os.POSIX_SPAWN_DUP2, stdin, 0),
            (os.POSIX_SPAWN_DUP2, 2, 1),
            (os.POSIX_SPAWN_DUP2, socket_fd, _LISTEN_FD),
            *((os.POSIX_SPAWN_CLOSE, strange) for strange in _inheritable()),
        ]
        if memory is not None:
            actions.append((os.POSIX_SPAWN_DUP2, memory.descriptor, _MEMORY_FD))
            command = [*command, "--memory-fd", str(_MEMORY_FD)]
        usual = (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD, signal.SIGPIPE)
        return os.posix_spawn(
            command[0],
            command,
            _environment(),
            file_actions=actions,
            setsid=True,
            setsigdef=usual,
            setsigmask=BLOCKED_AT_START,  # the relay unblocks them once it ignores or handles them
        )


def _inheritable() -> Iterator[int]:
    """Give the descriptors that are meant for somebody else's children, as a server's port is."""
    with suppress(OSError):
        for path in Path("/dev/fd").iterdir():
            with suppress(OSError):  # the listing's own is closed again
                if int(path.name) > _LISTEN_FD and os.get_inheritable(int(path.name)):
                    yield int(path.name)


def _environment() -> dict[str, str]:
    """Return the relay's environment: ours, and where to find this package.

    A file in the current directory must not pass for a module of the standard library.
    """
    root = str(Path(__file__).resolve().parents[2])
    path = [entry for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry]
    if root not in path and not root.endswith(("site-packages", "dist-packages")):
        path.append(root)
    found = {"PYTHONPATH": os.pathsep.join(path)} if path else {}
    return {**os.environ, "PYTHONSAFEPATH": "1", **found}


@contextmanager
def _filled_pipe(content: bytes) -> Generator[int]:
    """Give a descriptor to read ``content`` from, which fits into a pipe."""
    reader, writer = os.pipe()
    try:
        try:
            os.set_blocking(writer, False)  # the standard library's
            if os.write(writer, content) < len(content):
                raise OSError("its settings are too long")
        finally:
            os.close(writer)
        with _high(reader) as high:
            yield high
    finally:
        os.close(reader)


@contextmanager
def _high(descriptor: int) -> Generator[int]:
    """Give a copy that none of the relay's own descriptors can be in the way of."""
    copy = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, _HIGH_FD)
    try:
        yield copy
    finally:
        os.close(copy)


def _ended(pid: int) -> int | None:
    """Return how our child ended, as ``os.waitpid`` has it; None while it runs."""
    try:
        found, status = os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:  # somebody else has waited for it
        return 0
    return status if found else None


def _how(status: int) -> str:
    code = os.waitstatus_to_exitcode(status)
    return f"exit status {code}" if code >= 0 else f"signal {-code}"
