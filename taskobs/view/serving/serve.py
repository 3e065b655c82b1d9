"""The process that serves the page: ``python -m taskobs.view.serving.serve``.

It outlives the commands that send to it, so that the page is there while one of them is started
again, and after the last has ended for as long as a browser shows it.
"""

from __future__ import annotations

import argparse
import errno
import os
import signal
import sys
import threading
from typing import Final

from taskobs.view.serving.server import ViewServer

IN_USE: Final = "in use"
"""What it writes where another process has the port; otherwise the port that it serves."""
INTERVAL: Final = 0.2
"""Seconds between two looks at whether anybody uses the page."""


def main(arguments: list[str]) -> int:
    """Serve until nobody uses the page; write the port to standard output before that."""
    parser = argparse.ArgumentParser(prog="taskobs.view.serving.serve")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--limit", type=int, required=True)
    parser.add_argument("--stay", type=float, required=True)
    options = parser.parse_args(arguments)
    try:
        server = ViewServer(options.port, limit=options.limit, stay=options.stay)
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise
        sys.stdout.write(f"{IN_USE}\n")
        return 1
    server.start()
    sys.stdout.write(f"{server.server_port}\n")
    _leave_terminal()
    _wait(server)
    server.close()
    return 0


def _leave_terminal() -> None:
    """Write nowhere from now on: whoever has started it waits for the end of its output."""
    sys.stdout.flush()
    nowhere = os.open(os.devnull, os.O_RDWR)
    for descriptor in (sys.stdout.fileno(), sys.stderr.fileno()):
        os.dup2(nowhere, descriptor)
    os.close(nowhere)


def _wait(server: ViewServer) -> None:
    asked = threading.Event()

    def end(*_: object) -> None:
        asked.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)
    while not asked.wait(INTERVAL) and not server.users.ended():
        pass


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
