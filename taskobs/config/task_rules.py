"""Rules of tasks, by patterns of their names: what a team gives, and what holds for one task."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from fnmatch import translate
from typing import Final, NamedTuple, TypedDict, TypeVar

T = TypeVar("T")

_MOST_NAMES: Final = 1_000


class TaskRule(TypedDict, total=False):
    """What is recorded of the tasks that a pattern matches; a key that is left out changes nothing.

    ``taskobs.init(tasks={"reports.*": {"sample_rate": 1.0}})``
    """

    sample_rate: float
    """The share of traces, 0 to 1, of those that begin with such a task's publish or run."""
    errors: bool
    """Whether its failures are Sentry events; they are by default."""
    link: bool
    """Whether each run has a trace of its own, linked to its publish."""
    send_arguments: bool
    """Whether the events of its failures have its arguments, whatever ``init()`` was told."""


class Rule(NamedTuple):
    """The rule of one task, complete."""

    sample_rate: float | None = None
    errors: bool = True
    link: bool = False
    send_arguments: bool | None = None


NO_RULE: Final = Rule()


class TaskRules:
    """Finds the rule of a task: that of the first pattern which matches its name."""

    def __init__(self, tasks: Mapping[str, TaskRule]) -> None:
        self._rules = [
            (re.compile(translate(pattern)).match, Rule(**rule)) for pattern, rule in tasks.items()
        ]

    @property
    def sample_rates(self) -> frozenset[float]:
        """All shares of traces that a rule names."""
        rates = (rule.sample_rate for _, rule in self._rules)
        return frozenset(rate for rate in rates if rate is not None)

    def find(self, task: str) -> Rule:
        """Return the rule of a task; one that changes nothing if no pattern matches."""
        return next((rule for matches, rule in self._rules if matches(task)), NO_RULE)


def task_rules(tasks: Mapping[str, TaskRule] | None) -> TaskRules | None:
    """Return the rules of a setting; None where there are none, so that nobody looks them up."""
    return TaskRules(tasks) if tasks else None


class ByTask(dict[str, T]):
    """What holds for each task, by its name: one look-up, once ``make`` was asked for it.

    Thread-safe. Names may come from messages: no more than a thousand are kept.
    """

    def __init__(self, make: Callable[[str], T]) -> None:
        super().__init__()
        self._make = make

    def __missing__(self, task: str) -> T:
        made = self._make(task)
        if len(self) < _MOST_NAMES:
            self[task] = made
        return made
