"""What RabbitMQ notes on a message that it delivers again, or takes from one queue to another."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, cast

from taskobs.celery.adapter.queues import CHARS, is_delay_queue
from taskobs.model import DeadLetter, Run

_DEATHS: Final = "x-death"
_DELIVERIES: Final = "x-delivery-count"
_MOST: Final = 100


def add_deaths(run: Run, fields: Mapping[str, Any]) -> None:
    """Add to a run how often its message was delivered, and where it was a dead letter."""
    deliveries = fields.get(_DELIVERIES)
    if type(deliveries) is int and deliveries > 0:
        run.delivery_count = deliveries
    deaths: object = fields.get(_DEATHS)
    if not isinstance(deaths, list):
        return
    for death in cast("list[object]", deaths)[:_MOST]:  # the latest comes first
        found = _dead_letter(death)
        # Native delayed delivery has messages expire in its own queues: that is no dead letter.
        if found is not None and not is_delay_queue(found.queue):
            run.dead_letter = found
            return


def _dead_letter(death: object) -> DeadLetter | None:
    if not isinstance(death, Mapping):
        return None
    entry = cast("Mapping[str, object]", death)
    queue, reason, count = entry.get("queue"), entry.get("reason"), entry.get("count")
    if not isinstance(queue, str) or not isinstance(reason, str):
        return None
    return DeadLetter(queue[:CHARS], reason[:CHARS], count if type(count) is int else 1)
