"""Starts a relay as a process, and reads its control socket and errors until it is ready."""

from __future__ import annotations

import _socket
import fcntl
import os
import signal
from array import array
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

from taskobs.protocol.shared_memory import SharedMemory
from taskobs.protocol.signals import BLOCKED_AT_START
from taskobs.protocol.startup import ERRORS_FD
from taskobs.relay_client.relay_command import CONTROL_FD, LISTEN_FD, MEMORY_FD

_STANDARD_ERROR: Final = 2
_HIGH_FD: Final = 10
_PIPE_BYTES: Final = 65_536
_MAX_ERROR_CHARS: Final = 500
_LOG_PREFIX: Final = "taskobs relay: "


class SpawnedRelay:
    """A relay's process. Not thread-safe."""

    def __init__(self, pid: int, control: _socket.socket, errors: int) -> None:
        self.pid = pid
        self.answered = False
        """Whether it has reported that it is ready."""
        self._control, self._errors = control, errors
        self._written = b""

    def read_output(self) -> None:
        """Read its control socket and, until it has answered, its standard error; don't wait."""
        if self.answered:
            return
        with suppress(OSError):
            self.answered = bool(self._control.recv(16))
        with suppress(OSError):
            while data := os.read(self._errors, _PIPE_BYTES):
                self._written = (self._written + data)[-_PIPE_BYTES:]
        if self.answered:
            self._show()

    def _show(self) -> None:
        """Write what it has logged until now to the worker's standard error."""
        written, self._written = self._written, b""
        with suppress(OSError):  # there may be no standard error
            if written:
                os.write(_STANDARD_ERROR, written)

    def ended(self) -> int | None:
        """Return how it ended, as ``os.waitpid`` has it; None while it runs."""
        try:
            found, status = os.waitpid(self.pid, os.WNOHANG)
        except ChildProcessError:  # another caller of ``waitpid`` has reaped it
            return 0
        return status if found else None

    def last_error_line(self) -> str:
        """Return the last line that it wrote to its standard error before it answered."""
        self.read_output()
        lines = self._written.decode(errors="replace").strip().splitlines()
        last = lines[-1].rpartition(_LOG_PREFIX)[2].strip() if lines else ""
        return last[:_MAX_ERROR_CHARS]

    def kill(self) -> None:
        """End it at once."""
        with suppress(OSError):
            os.kill(self.pid, signal.SIGKILL)

    def hand_over(self, listening: int) -> None:
        """Give it another socket to listen at.

        Raises:
            OSError: it takes none.
        """
        descriptors = array("i", [listening])
        rights = [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, descriptors)]
        self._control.sendmsg([b"l"], rights)

    def close(self) -> None:
        """Close the control socket and the pipe; a second call does nothing."""
        self._control.close()
        errors, self._errors = self._errors, -1
        if errors >= 0:
            os.close(errors)


def spawn(
    command: Sequence[str],
    environment: Mapping[str, str],
    configuration: bytes,
    listening: int,
    memory: SharedMemory | None,
) -> SpawnedRelay:
    """Start a relay, in a session of its own so that Ctrl-C does not reach it.

    ``subprocess`` is not used: gevent and eventlet replace it, and it would complain, when the
    worker ends, that the relay has not. ``_socket`` is what they don't replace.

    Raises:
        OSError: it can't be started.
    """
    ours, theirs = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_STREAM)
    ours.settimeout(0)
    errors, errors_in = os.pipe()
    os.set_blocking(errors, False)  # the standard library's
    try:
        with (
            _filled_pipe(configuration) as stdin,
            _high(listening) as socket_fd,
            _high(theirs.fileno()) as control_fd,
            _high(errors_in) as stderr_fd,
        ):
            actions: list[Any] = [
                # First: one of these may have a number that the next actions assign.
                *((os.POSIX_SPAWN_CLOSE, other) for other in _inheritable()),
                (os.POSIX_SPAWN_DUP2, stdin, 0),
                (os.POSIX_SPAWN_DUP2, _STANDARD_ERROR, ERRORS_FD),
                (os.POSIX_SPAWN_DUP2, stderr_fd, _STANDARD_ERROR),
                (os.POSIX_SPAWN_DUP2, socket_fd, LISTEN_FD),
                (os.POSIX_SPAWN_DUP2, control_fd, CONTROL_FD),
            ]
            command = list(command)
            if memory is not None:
                actions.append((os.POSIX_SPAWN_DUP2, memory.descriptor, MEMORY_FD))
                command += ["--memory-fd", str(MEMORY_FD)]
            pid = os.posix_spawn(
                command[0],
                command,
                environment,
                file_actions=actions,
                setsid=True,
                setsigdef=(signal.SIGINT, signal.SIGTERM, signal.SIGCHLD, signal.SIGPIPE),
                # The relay unblocks them once it ignores or handles them.
                setsigmask=BLOCKED_AT_START,
            )
    except BaseException:
        ours.close()
        os.close(errors)
        raise
    finally:
        theirs.close()
        os.close(errors_in)
    return SpawnedRelay(pid, ours, errors)


def _inheritable() -> Iterator[int]:
    """Yield the inheritable descriptors, which are for other children of this process."""
    with suppress(OSError):
        for path in Path("/dev/fd").iterdir():
            with suppress(OSError):  # the listing's own is closed again
                if int(path.name) > _STANDARD_ERROR and os.get_inheritable(int(path.name)):
                    yield int(path.name)


@contextmanager
def _filled_pipe(content: bytes) -> Generator[int]:
    """Yield a descriptor to read ``content`` from, which has to fit into a pipe's buffer."""
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
    """Yield a copy whose number none of the relay's descriptors gets."""
    copy = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, _HIGH_FD)
    try:
        yield copy
    finally:
        os.close(copy)
