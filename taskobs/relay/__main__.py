"""``python -m taskobs.relay``: started by a worker, not by hand."""

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

from taskobs.relay import slim_imports  # noqa: F401 # pyright: ignore[reportUnusedImport] - first

# isort: split
from taskobs.protocol.shared_memory import SharedMemory
from taskobs.relay.agent import settings
from taskobs.relay.agent.app import Relay
from taskobs.relay.agent.settings import ConfigurationError, RelaySettings

REFUSED: Final = 2
"""The exit status when it can't work as it is told to."""
DESCRIPTORS: Final = 2_048
_log: Final = logging.getLogger("taskobs.relay")


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve one worker until it has ended; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m taskobs.relay", description=__doc__)
    parser.add_argument("--listen-fd", type=int, required=True, help="a socket that listens")
    parser.add_argument("--memory-fd", type=int, help="what it shares with the worker's processes")
    parser.add_argument("--worker", default="", help="its name; the rest comes as JSON on stdin")
    given = parser.parse_args(arguments)
    _ignore(signal.SIGINT, signal.SIGHUP)
    _raise_limit()
    logging.basicConfig(format="[%(asctime)s: %(levelname)s/relay] %(message)s")
    try:
        told = settings.parse(
            sys.stdin.buffer.read(settings.MAX_CONFIGURATION), worker=given.worker
        )
        listener = socket.socket(fileno=given.listen_fd)
        relay = Relay(listener, told, _shared(given.memory_fd))
    except (ConfigurationError, OSError, ImportError, ValueError) as error:
        _log.error("taskobs relay: it can't be started: %s", error)
        return REFUSED
    _title(told)

    def terminate(_number: int, _frame: FrameType | None) -> None:
        relay.terminate()

    signal.signal(signal.SIGTERM, terminate)
    relay.run()
    return 0


def _shared(descriptor: int | None) -> SharedMemory | None:
    memory = None if descriptor is None else SharedMemory(descriptor)
    return memory if memory is not None and memory.whole else None


def _raise_limit() -> None:
    """Have a descriptor for each process of a large worker."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = DESCRIPTORS if most == resource.RLIM_INFINITY else min(DESCRIPTORS, most)
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, most))


def _ignore(*numbers: signal.Signals) -> None:
    for number in numbers:
        signal.signal(number, signal.SIG_IGN)


def _title(told: RelaySettings) -> None:
    """Have ``ps`` say whose relay this is, where setproctitle is installed."""
    with suppress(ImportError):
        import_module("setproctitle").setproctitle(f"taskobs relay of {told.worker or told.parent}")


if __name__ == "__main__":
    status = main()
    logging.shutdown()
    # A thread may still be in a call to a backend that hangs; all it had is counted.
    os._exit(status)
