"""What settings and the rules of tasks say of events."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from taskobs.config.settings import Settings
from taskobs.config.task_rules import ByTask, Rule, TaskRules
from taskobs.model import Outcome
from taskobs.observers.sentry.event_rule import EventRule
from taskobs.protocol.held_spans.rules import parse


def event_rule(settings: Settings) -> EventRule:
    """Return the rule of tasks that have none of their own."""
    return EventRule(
        send_arguments=settings.send_arguments,
        trace_url=settings.trace_url,
        kept=_kept_outcomes(settings.keep or ()),
    )


def _kept_outcomes(keep: Iterable[str]) -> frozenset[Outcome]:
    """Return the outcomes of which ``keep`` records each run that has an event."""
    rules = parse(keep)
    if rules.failed:  # whatever makes an event
        return frozenset(Outcome)
    return frozenset({Outcome.LOST}) if rules.lost else frozenset()


def event_rules(rules: TaskRules | None, default: EventRule) -> Mapping[str, EventRule] | None:
    """Return the rule of each task by its name; None without rules.

    ``default`` holds for what a task's rule does not say.
    """
    return None if rules is None else ByTask(lambda task: _of(rules.find(task), default))


def _of(found: Rule, default: EventRule) -> EventRule:
    sends = default.send_arguments if found.send_arguments is None else found.send_arguments
    scrub = default.send_arguments and not sends
    return default._replace(errors=found.errors, send_arguments=sends, scrub=scrub, link=found.link)
