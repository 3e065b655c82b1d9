from __future__ import annotations

from typing import Any

import pytest

from taskobs.celery.adapter.dead_letters import add_deaths
from taskobs.model import DeadLetter, Run

DEATH = {"queue": "orders", "reason": "rejected", "count": 2}
DELAY = {"queue": "celery_delayed_3", "reason": "expired", "count": 1}


@pytest.mark.parametrize(
    ("fields", "count", "letter"),
    [
        ({"x-delivery-count": 3}, 3, None),
        ({"x-delivery-count": 0}, None, None),
        ({"x-delivery-count": "3"}, None, None),
        ({"x-death": [DEATH]}, None, DeadLetter("orders", "rejected", 2)),
        ({"x-death": [DELAY, DEATH]}, None, DeadLetter("orders", "rejected", 2)),
        ({"x-death": [DELAY]}, None, None),
        ({"x-death": [3, None, {"queue": 1}]}, None, None),
        ({"x-death": "orders"}, None, None),
        ({"x-death": [{**DEATH, "count": "x"}]}, None, DeadLetter("orders", "rejected", 1)),
    ],
)
def test_what_rabbitmq_notes(
    fields: dict[str, Any], count: int | None, letter: DeadLetter | None
) -> None:
    """A message that was delivered before, or was a dead letter, says so."""
    run = Run(task="add")
    add_deaths(run, fields)
    assert (run.delivery_count, run.dead_letter) == (count, letter)
