"""Asks a real Prometheus what the panels of a dashboard ask."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from taskobs.dashboards.panels import Dashboard, Variable
    from tests.live.services import Prometheus


def filled(expression: str, *, task: str, span: str = "5m") -> str:
    """Put what a dashboard chooses by default in the place of its variables, and one task."""
    chosen = {
        '="$task"': f'="{task}"',
        "$task": ".*",
        "$job": ".*",
        "$queue": ".*",
        "$__rate_interval": "1m",
        "$__range": span,
    }
    for variable, value in chosen.items():
        expression = expression.replace(variable, value)
    return expression


def has_data(prometheus: Prometheus, expression: str) -> bool:
    """Whether a query returns a number now."""
    found = prometheus.query(expression)
    return any(not math.isnan(float(one["value"][1])) for one in found)


def empty_panels(prometheus: Prometheus, dashboard: Dashboard, *, task: str) -> Iterator[str]:
    """Give the queries of panels that return nothing now."""
    for panel in dashboard.panels:
        for query in panel.queries:
            if not has_data(prometheus, filled(query.expression, task=task)):
                yield f"{dashboard.title}, {panel.title}: {query.expression}"


def choices(prometheus: Prometheus, variable: Variable) -> set[str]:
    """Give the values that a dashboard lets one choose from."""
    metric = filled(variable.metric, task="")
    found = prometheus.query(f"count by ({variable.values}) ({metric})")
    return {one["metric"][variable.values] for one in found if variable.values in one["metric"]}
