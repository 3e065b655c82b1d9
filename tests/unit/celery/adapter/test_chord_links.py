from __future__ import annotations

from typing import Any

import pytest

from taskobs.celery.adapter.chord_links import BackendChordLinks


def nested(depth: int) -> dict[str, Any]:
    body: dict[str, Any] = {"task": "celery.group", "options": {"task_id": "deepest"}}
    for _ in range(depth):
        body = {"task": "celery.group", "kwargs": {"tasks": [body]}}
    return body


CALLBACK: dict[str, Any] = {"options": {"task_id": "callback"}}


@pytest.mark.parametrize(
    ("body", "task_id", "belongs"),
    [
        (CALLBACK, "callback", True),
        (CALLBACK, "other", False),
        ({"task": "celery.chain", "kwargs": {"tasks": [CALLBACK, {}]}}, "callback", True),
        ({"task": "celery.chain", "kwargs": {"tasks": [{}, CALLBACK]}}, "callback", False),
        ({"task": "celery.group", "kwargs": {"tasks": [{}, CALLBACK]}}, "callback", True),
        ({"options": 3, "kwargs": 5}, "callback", False),
        ({"options": None, "kwargs": {"tasks": "callback"}}, "callback", False),
        (nested(3), "deepest", True),
        (nested(400), "deepest", False),
    ],
)
def test_the_callback_of_a_chord(body: dict[str, Any], task_id: str, *, belongs: bool) -> None:
    """My chord's callback is known, and a body of any shape or depth breaks no publish."""
    links = BackendChordLinks(None, "group-1", 0, body)
    assert links.belongs_to(task_id) is belongs
