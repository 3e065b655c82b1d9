"""A broker in a folder, for the demo, in which no worker reads a half-written message.

kombu's transport creates a message's file before it writes the content. A worker that reads it in
between gets an empty message and logs an error.
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
"""The scheme of the broker's URL, after `register`."""


class Channel(kombu_filesystem.Channel):
    """Renames a message's file to its final name once it is complete."""

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
    """kombu's transport, with a channel that writes messages atomically."""

    Channel = Channel


def register() -> None:
    """Make ``folder://`` a broker's URL in this process."""
    TRANSPORT_ALIASES[SCHEME] = f"{__name__}:{Transport.__name__}"
