"""Pages of ``taskobs view`` for tests: served by the test, or by a command that it starts."""

from __future__ import annotations

import contextlib
import os
import signal
from typing import TYPE_CHECKING, Any

from tests.live.process import LIMIT, wait_until
from tests.live.services import HOST, fetch, free_port, listens

if TYPE_CHECKING:
    from collections.abc import Generator


def identity(port: int) -> dict[str, Any]:
    """What a page says of itself."""
    found: dict[str, Any] = fetch(f"http://{HOST}:{port}/api/view")
    return found


@contextlib.contextmanager
def page_port() -> Generator[int]:
    """Give a port whose page has ended at the end, one way or the other."""
    port = free_port()
    try:
        yield port
        assert wait_until(lambda: not listens(port), timeout=LIMIT), "the page stays"
    finally:
        with contextlib.suppress(OSError):
            os.kill(identity(port)["pid"], signal.SIGKILL)
