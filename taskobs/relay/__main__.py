"""``python -m taskobs.relay``: the helper process beside a worker, which the worker starts.

It reads its settings as JSON from standard input and serves the processes of the worker until
that has ended.
"""

from __future__ import annotations

import argparse
import logging
import os
import resource
import signal
import socket
import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from types import FrameType
from typing import Final

from taskobs.relay import worker_path  # noqa: F401  # pyright: ignore[reportUnusedImport]  # first

# isort: split
from taskobs.relay import slim_imports  # noqa: F401  # pyright: ignore[reportUnusedImport]  # second

# isort: split
from taskobs.protocol.shared_memory import SharedMemory
from taskobs.protocol.signals import BLOCKED_AT_START, IGNORED
from taskobs.relay.agent import settings
from taskobs.relay.agent.app import Relay
from taskobs.relay.agent.control import ControlSocket
from taskobs.relay.agent.settings import ConfigurationError, RelaySettings

CANNOT_START: Final = 2
"""The exit status when settings, libraries or a limit of the system keep it from working."""
DESCRIPTORS: Final = 2_048
"""File descriptors that it asks for: one for each process of a large worker, and some more."""
_log: Final = logging.getLogger("taskobs.relay")


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve one worker until it has ended; return the exit status."""
    given = _parser().parse_args(arguments)
    _ignore_signals()
    _raise_descriptor_limit()
    logging.basicConfig(format="[%(asctime)s: %(levelname)s/relay] %(message)s")
    try:
        relay = _start(given)
    except (ConfigurationError, OSError, ImportError, ValueError, RuntimeError) as error:
        _log.error("taskobs relay: cannot start: %s", error)
        return CANNOT_START
    _handle_sigterm(relay)
    relay.answer()
    relay.run()
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m taskobs.relay", description=__doc__)
    parser.add_argument("--listen-fd", type=int, required=True, help="a socket that listens")
    parser.add_argument("--memory-fd", type=int, help="the memory shared with the processes")
    parser.add_argument("--control-fd", type=int, help="a socket of the launcher's")
    parser.add_argument("--worker", default="", help="the worker's node name")
    return parser


def _start(given: argparse.Namespace) -> Relay:
    """Return a relay whose threads run.

    Raises:
        ConfigurationError, ImportError, ValueError: the settings can't be used.
        OSError: a descriptor is not what it should be.
        RuntimeError: the system allows no more threads (RLIMIT_NPROC).
    """
    text = sys.stdin.buffer.read(settings.MAX_CONFIGURATION)
    configuration = settings.parse(text, worker=given.worker)
    # Not the root logger's: libraries would log each connection at DEBUG.
    logging.getLogger("taskobs").setLevel(configuration.log_level)
    listener = socket.socket(fileno=given.listen_fd)
    control = None if given.control_fd is None else ControlSocket(given.control_fd)
    relay = Relay(listener, configuration, _shared_memory(given.memory_fd), control)
    relay.start()
    _set_title(configuration)
    return relay


def _shared_memory(descriptor: int | None) -> SharedMemory | None:
    memory = None if descriptor is None else SharedMemory(descriptor)
    return memory if memory is not None and memory.whole else None


def _ignore_signals() -> None:
    for number in IGNORED:
        # Not all of them can be ignored on all systems.
        with suppress(OSError, ValueError):
            signal.signal(number, signal.SIG_IGN)


def _handle_sigterm(relay: Relay) -> None:
    def terminate(_number: int, _frame: FrameType | None) -> None:
        relay.terminate()

    signal.signal(signal.SIGTERM, terminate)
    # The launcher has blocked these: unblocked before they are ignored or handled, one that came
    # meanwhile would end this process.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, BLOCKED_AT_START)


def _raise_descriptor_limit() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = DESCRIPTORS if hard == resource.RLIM_INFINITY else min(DESCRIPTORS, hard)
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _set_title(configuration: RelaySettings) -> None:
    """Have ``ps`` show whose relay this is, where setproctitle is installed."""
    title = f"taskobs relay of {configuration.worker or configuration.parent}"
    with suppress(ImportError):
        import_module("setproctitle").setproctitle(title)


if __name__ == "__main__":
    status = main()
    logging.shutdown()
    # Not sys.exit: a sender's thread may still hang in a call to a backend.
    os._exit(status)
