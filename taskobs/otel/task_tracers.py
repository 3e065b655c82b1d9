"""The tracers of tasks' spans: one of a provider, and one for each share of traces in the rules."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from copy import copy
from typing import Final

from opentelemetry import trace
from opentelemetry.sdk.trace import Tracer
from opentelemetry.sdk.trace.sampling import (
    DEFAULT_OFF,
    DEFAULT_ON,
    ParentBasedTraceIdRatio,
    Sampler,
)

from taskobs.config.task_rules import NO_RULE, ByTask, TaskRules
from taskobs.internal.samplers import deciding_by
from taskobs.observers.deferred_attributes import DeferredAttributes
from taskobs.observers.task_tracer import TaskTracer, task_tracer
from taskobs.otel._sdk_compat import set_unchecked
from taskobs.otel.chosen_ids import ChosenIdsOfTracer
from taskobs.otel.fast_provider import use_sampler

_log: Final = logging.getLogger("taskobs")


class TaskTracers:
    """What makes the spans of tasks with a provider's tracer, until ``remove``."""

    def __init__(
        self, tracer: trace.Tracer, rules: TaskRules | None = None, *, link: bool = False
    ) -> None:
        self._rules, self._link = rules, link
        self._ids: list[ChosenIdsOfTracer] = []
        rated = {} if rules is None else _rated(tracer, rules)  # before ours is in the tracer
        self.default = _made(tracer, link=link)
        """What makes the spans of a task without a rule."""
        self._rated = {rate: _made(one, link=link) for rate, one in rated.items()}
        self.by_task: Mapping[str, TaskTracer] | None = None if rules is None else ByTask(self._of)
        """The same for each task; None without rules."""

    def with_tracer(self, tracer: trace.Tracer) -> TaskTracers:
        """Return the same for another tracer."""
        return TaskTracers(tracer, self._rules, link=self._link)

    def _of(self, task: str) -> TaskTracer:
        rule = NO_RULE if self._rules is None else self._rules.find(task)
        made = self.default
        if rule.sample_rate is not None:
            made = self._rated.get(rule.sample_rate, made)
        return made._replace(link=made.link or rule.link)

    def choose_ids(self) -> None:
        """Have runs get the ids that the worker's main process chooses for them.

        With a relay, a killed child's run has two reporters: they have to write the same span.
        """
        if not self._ids:
            self._ids = [ChosenIdsOfTracer(made.tracer) for made in self._all()]

    def remove(self) -> None:
        """Let the tracers do without what was put into them."""
        ids, self._ids = self._ids, []
        for one in ids:
            one.remove()
        for made in self._all():
            if made.deferred is not None:
                made.deferred.remove()

    def _all(self) -> list[TaskTracer]:
        return [self.default, *self._rated.values()]


def _made(tracer: trace.Tracer, *, link: bool) -> TaskTracer:
    return task_tracer(tracer, DeferredAttributes.install(tracer, set_unchecked), link=link)


def _rated(tracer: trace.Tracer, rules: TaskRules) -> dict[float, Tracer]:
    """Return a tracer for each share of traces, which decides on them in the place of the sampler.

    They are copies, as the SDK returns the same tracer for the same scope (seen in 1.45).
    """
    if rules.sample_rates and not isinstance(tracer, (Tracer, trace.NoOpTracer)):
        _log.warning(
            "taskobs: a sample_rate in tasks has no effect: spans are made by %s, which is not "
            "OpenTelemetry's SDK",
            type(tracer).__module__,
        )
    if not isinstance(tracer, Tracer):
        return {}
    return {rate: _with_sampler(tracer, _sampler(rate)) for rate in rules.sample_rates}


def _with_sampler(tracer: Tracer, sampler: Sampler) -> Tracer:
    made = copy(tracer)
    use_sampler(made, deciding_by(tracer.sampler, sampler))
    return made


def _sampler(rate: float) -> Sampler:
    """Return a sampler that follows the decision of a parent, and keeps a share of new traces."""
    if rate in {0.0, 1.0}:  # a fast tracer recognises these, and does not ask them
        return DEFAULT_ON if rate else DEFAULT_OFF
    return ParentBasedTraceIdRatio(rate)
