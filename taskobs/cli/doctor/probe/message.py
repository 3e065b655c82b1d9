"""What the doctor and its worker agree on: the task's name, its queue, and where it writes."""

# kombu ships no types.
# pyright: reportUnknownMemberType=false

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from kombu import Exchange, Queue

from taskobs.config import settings

TASK: Final = "taskobs.doctor.probe"
VARIABLE: Final = settings.DOCTOR
"""Says to the worker whose app it serves, and how."""
READY: Final = "ready.json"
RUN: Final = "run.json"
EVENT: Final = "event.json"
_EXPIRES: Final = 600.0
"""Seconds without a consumer after which RabbitMQ deletes the queue by itself."""


@dataclass(frozen=True, slots=True)
class Order:
    """What the worker is to do."""

    app: str
    queue: str
    folder: str
    task_id: str
    doctor: int
    """The pid of the doctor, without which the worker ends."""

    def as_text(self) -> str:
        """Return it as the value of the variable."""
        return json.dumps(asdict(self))

    @classmethod
    def read(cls, environ: Mapping[str, str]) -> Order:
        """Read it from the variable.

        Raises:
            KeyError: this is no worker of the doctor's.
        """
        return cls(**json.loads(environ[VARIABLE]))


def private_queue(name: str) -> Queue:
    """Return a queue behind the default exchange: so there is no exchange to leave behind."""
    return Queue(
        name,
        Exchange(""),
        routing_key=name,
        expires=_EXPIRES,
        # Also where quorum queues are the default: those can't be deleted by their last consumer.
        queue_arguments={"x-queue-type": "classic"},
    )


def write(path: Path, content: Mapping[str, Any]) -> None:
    """Write a file that a reader finds whole, or not at all."""
    draft = path.with_suffix(".draft")
    draft.write_text(json.dumps(content, default=str), encoding="utf-8")
    draft.rename(path)


def read(path: Path) -> dict[str, Any] | None:
    """Read such a file; None if it is not there."""
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except OSError:
        return None
    return found
