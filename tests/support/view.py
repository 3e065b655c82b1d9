"""The server of ``taskobs view``, in the test's own process."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from taskobs.view.serving.server import ViewServer
from taskobs.view.storage.store import MEBIBYTE

if TYPE_CHECKING:
    from collections.abc import Generator


@contextlib.contextmanager
def serving(server: ViewServer | None = None) -> Generator[ViewServer]:
    """Serve a page that nothing sends to but the test."""
    opened = server or ViewServer(0, limit=MEBIBYTE, stay=0)
    opened.start()
    try:
        yield opened
    finally:
        opened.close()
