"""Celery's broker in a folder, in which nobody finds a message that is only half there.

The transport of kombu makes a message's file before it writes into it: a worker that looks in
between takes an empty one, and stumbles.
"""

from __future__ import annotations

import time
import uuid
from pathlib import Path
from typing import Any, Final

from kombu.transport import TRANSPORT_ALIASES
from kombu.transport import filesystem as kombu_filesystem
from kombu.utils.json import dumps

SCHEME: Final = "folder"
"""Of the broker's URL, once `register` was called."""


class Channel(kombu_filesystem.Channel):
    """Gives a message its name when it is whole."""

    # The bases name the second argument differently; its type is whatever JSON can hold.
    def _put(self, queue: str, payload: Any, **kwargs: object) -> None:  # type: ignore[override]  # noqa: ANN401
        del kwargs
        name = f"{round(time.monotonic() * 1000)}_{uuid.uuid4()}.{queue}.msg"
        whole = Path(self.data_folder_out) / name
        # Kombu before 5.7 looks for the queue's name and ".msg" anywhere in a file's name.
        draft = whole.with_name(f"{uuid.uuid4()}.draft")
        draft.write_text(dumps(payload), encoding="utf-8")
        draft.rename(whole)


class Transport(kombu_filesystem.Transport):
    """kombu's own, but for how a message is written."""

    Channel = Channel


def register() -> None:
    """Make ``folder://`` a broker's URL in this process."""
    TRANSPORT_ALIASES[SCHEME] = f"{__name__}:{Transport.__name__}"
