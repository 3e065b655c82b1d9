"""What the rules of tasks say of their events."""

from __future__ import annotations

from collections.abc import Mapping

from taskobs.config.task_rules import ByTask, TaskRules
from taskobs.observers.sentry.event_rule import EventRule


def event_rules(
    rules: TaskRules | None, *, send_arguments: bool, trace_url: str | None = None
) -> Mapping[str, EventRule] | None:
    """Return the rule of each task by its name; None without rules.

    ``send_arguments`` holds for tasks whose rule does not say.
    """
    if rules is None:
        return None
    return ByTask(lambda task: _of(rules, task, send_arguments)._replace(trace_url=trace_url))


def _of(rules: TaskRules, task: str, sends_all: bool) -> EventRule:  # noqa: FBT001  # private
    found = rules.find(task)
    sends = sends_all if found.send_arguments is None else found.send_arguments
    return EventRule(found.errors, sends, scrub=sends_all and not sends, link=found.link)
