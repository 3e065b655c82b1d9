"""The demo's broker in a folder."""

from __future__ import annotations

import json
from pathlib import Path
from queue import Empty
from typing import Any

import pytest
from kombu import Connection

from taskobs.view.demo import folder


def test_a_message_is_found_only_when_it_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that looks while a message is written takes nothing, and then all of it."""
    paths = ("data_folder_in", "data_folder_out", "control_folder")
    folder.register()
    with Connection(
        f"{folder.SCHEME}://", transport_options=dict.fromkeys(paths, str(tmp_path))
    ) as connection:
        channel: Any = connection.default_channel
        written: list[object] = []
        rename = Path.rename

        def look(draft: Path, whole: Path) -> Path:
            with pytest.raises(Empty):
                channel._get("orders")
            written.append(json.loads(draft.read_text()))
            return rename(draft, whole)

        monkeypatch.setattr(Path, "rename", look)
        channel._put("orders", {"body": "tea"})
        assert written == [{"body": "tea"}]
        assert channel._get("orders") == {"body": "tea"}
