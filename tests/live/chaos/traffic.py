"""Which tasks are published to a worker, and with which arguments."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence
    from random import Random

    from tests.live.celery_process import Producer

Call = tuple[str, list[object]]
"""A task and its arguments."""
STALLED = 60.0
"""Seconds without any progress after which a worker does nothing more.

It reports a killed run after 10 s, and on a busy machine a spawned child takes long to start.
"""
SETTLED = 300.0
"""Seconds after which a worker that still makes progress is not waited for any more."""
PUBLISH = "result = [getattr(app, name).delay(*args).id for name, args in calls]"
INSPECT = """
inspect = app.app.control.inspect(timeout=2)
result = [inspect.active(), inspect.reserved()]
"""
KIB = 1024
MIB = 1024 * 1024


@dataclass(frozen=True)
class TaskChoice:
    """A task that may be published: how often of a hundred, and with which arguments."""

    task: str
    weight: float
    arguments: Callable[[Random], list[object]]


def burst(dice: Random, spans: int, attachments: int) -> list[object]:
    """Give the arguments of ``burst``: so many long spans, and events with an attachment."""
    sizes = [dice.randrange(200 * KIB, 1000 * KIB) for _ in range(spans)]
    return [sizes, [MIB] * attachments]


CLASSIC: tuple[TaskChoice, ...] = (
    TaskChoice(
        "short", 53, lambda dice: [dice.randrange(1, 4), dice.choice([0, 0.002, 0.01]), False]
    ),
    TaskChoice("short", 8, lambda dice: [dice.randrange(1, 3), 0.002, True]),
    TaskChoice("nested", 7, lambda dice: [dice.randrange(1, 4), dice.uniform(0.01, 0.15), False]),
    TaskChoice("nested", 2, lambda dice: [2, dice.uniform(0.01, 0.15), True]),
    TaskChoice("nested", 4, lambda dice: [2, dice.uniform(0.3, 1.0), False]),
    TaskChoice("calls", 6, lambda _: [0.002]),
    TaskChoice("again", 4, lambda _: [0.002]),
    TaskChoice("late_short", 10, lambda dice: [2, dice.choice([0, 0.002, 0.01]), False]),
    TaskChoice("late_short", 1, lambda _: [2, 0.002, True]),
    TaskChoice("late_nested", 4, lambda dice: [2, dice.uniform(0.01, 0.3), False]),
    TaskChoice("late_nested", 0.5, lambda dice: [2, dice.uniform(0.01, 0.15), True]),
    TaskChoice("limited", 0.5, lambda _: []),
)
WIDE: tuple[TaskChoice, ...] = (
    *CLASSIC,
    TaskChoice("burst", 0.4, lambda dice: burst(dice, dice.randrange(1, 3), dice.randrange(2))),
)


class Traffic:
    """Publishes a plan's tasks, spread over its seconds."""

    def __init__(
        self, choices: Sequence[TaskChoice], tasks: int, seconds: float, dice: Random
    ) -> None:
        self._choices, self._tasks, self._seconds, self._dice = choices, tasks, seconds, dice
        self.left = tasks

    def publish_due(self, producer: Producer, now: float) -> None:
        """Publish what is due ``now`` seconds after the first publish."""
        due = self._tasks * min(1.0, now / self._seconds)
        number = min(self.left, round(due) - (self._tasks - self.left))
        if number > 0:
            publish(producer, [self._choose() for _ in range(number)])
            self.left -= number

    def _choose(self) -> Call:
        weights = [choice.weight for choice in self._choices]
        [chosen] = self._dice.choices(self._choices, weights)
        return chosen.task, chosen.arguments(self._dice)


def publish(producer: Producer, calls: Sequence[Call]) -> list[str]:
    """Publish tasks, one after the other; return their ids."""
    ids: list[str] = producer.run(
        f"import json\ncalls = json.loads({json.dumps(calls)!r})\n{PUBLISH}"
    )
    return ids


def settled(producer: Producer, progress: Callable[[], object]) -> bool:
    """Wait until the worker has nothing to do, and has reported all that died; say whether.

    ``progress`` returns another value whenever the worker has done something.
    """

    def idle() -> bool:
        answers: Any = producer.run(INSPECT)
        return all(answer and not any(answer.values()) for answer in answers)

    last, since, until = progress(), time.monotonic(), time.monotonic() + SETTLED
    while time.monotonic() < min(until, since + STALLED):
        if idle() and idle():  # twice: between two messages a worker has nothing to do either
            return True
        time.sleep(0.5)
        if (now := progress()) != last:
            last, since = now, time.monotonic()
    return False
