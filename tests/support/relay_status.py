"""Asks the relay of one worker what it counts; ``taskobs status`` asks those of all workers.

Processes that share the tests have their workers' sockets in one directory, and a relay there may
stand still because its test has stopped it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Final

from taskobs.protocol.frames import FrameError
from taskobs.relay_client import socket_directory, status

PATIENCE: Final = 60.0
"""Seconds that a relay gets on a busy machine; a user's command gives it two."""


def replies(worker_pid: int, environ: Mapping[str, str] = os.environ) -> list[dict[str, Any]]:
    """Give what each relay of a worker says: one, or two while one takes the place of another."""
    found: list[dict[str, Any]] = []
    for pid, address in socket_directory.addresses(environ):
        if pid == worker_pid:
            try:
                found.append(status.ask(address, PATIENCE))
            except (OSError, FrameError):  # it has ended meanwhile
                continue
    return found
