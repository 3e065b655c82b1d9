"""The messages that a test publishes, and the runs that it makes of them."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import Any

from celery import Celery, signals
from celery.app.trace import build_tracer

Message = dict[str, Any]


@contextmanager
def sent_messages() -> Generator[list[Message]]:
    """Give the headers of all messages that are published inside."""
    messages: list[Message] = []

    def published(headers: Message, **_: object) -> None:
        messages.append(headers)

    signals.after_task_publish.connect(published, weak=False)
    try:
        yield messages
    finally:
        signals.after_task_publish.disconnect(published)


def run_message(app: Celery, name: str, message: Mapping[str, Any], **changes: object) -> None:
    """Run a task as a worker does, with the headers of a message."""
    fields: Message = {"id": "id-1", "retries": 0, "ignore_result": True, **message, **changes}
    fields |= {"task": name, "is_eager": False, "delivery_info": {}}
    traced: Any = build_tracer(name, app.tasks[name], app=app)
    traced(fields["id"], (), {}, fields)


def sampled(message: Message) -> bool:
    """Tell whether a message says that its trace is sampled."""
    return bool(int(message["traceparent"][-2:], 16) & 1)


def trace_id(message: Message) -> int:
    """Give the id of a message's trace."""
    return int(message["traceparent"].split("-")[1], 16)
