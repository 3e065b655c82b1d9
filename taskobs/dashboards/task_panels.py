"""Panels about tasks, for all that are chosen or for one."""

from __future__ import annotations

from typing import Final

from taskobs.dashboards import names
from taskobs.dashboards.panels import Panel, graph
from taskobs.dashboards.queries import TaskQueries, legend

_COLOURS: Final = {"succeeded": "green", "retried": "yellow", "failed": "red", "lost": "purple"}
_QUANTILES: Final = {"p50": 0.5, "p95": 0.95, "p99": 0.99}


def ends_of_runs(tasks: TaskQueries) -> Panel:
    """Return how many runs end in a second, by outcome."""
    return graph(
        "Runs by outcome",
        "Runs that end in a second. Each attempt counts: one that ends as a retry, too.",
        {legend(names.OUTCOME): tasks.runs(names.OUTCOME)},
        unit="suffix:/s",
        stacked=True,
        colours=_COLOURS,
    )


def error_ratio(tasks: TaskQueries) -> Panel:
    """Return the share of runs that fail."""
    return graph(
        "Error ratio",
        "Failed and lost runs among all that ended, without retries and expected exceptions.",
        {"errors": tasks.error_ratio()},
        unit="percentunit",
    )


def messages(tasks: TaskQueries) -> Panel:
    """Return what comes, and what ends before it is run."""
    return graph(
        "Messages",
        "In a second. Published: by workers, and by producers that send OTLP. "
        "Discarded: revoked, expired or unknown.",
        {
            "published": tasks.rate(names.PUBLISHED),
            "received": tasks.rate(names.RECEIVED),
            "retried": tasks.rate(names.RETRIES),
            "discarded": tasks.rate(names.DISCARDED),
        },
        unit="suffix:/s",
    )


def run_time(tasks: TaskQueries) -> Panel:
    """Return how long runs take."""
    return graph(
        "Run time",
        "Half, 95 % and 99 % of the runs have ended within this time. Points are traces.",
        _times(tasks, names.RUN_TIME),
        unit="s",
        exemplars=True,
    )


def queue_wait(tasks: TaskQueries) -> Panel:
    """Return how long messages wait for their run."""
    return graph(
        "Queue wait",
        "From the publish, or the ETA, to the start of the run: half, 95 % and 99 % of them.",
        _times(tasks, names.QUEUE_WAIT),
        unit="s",
    )


def _times(tasks: TaskQueries, histogram: str) -> dict[str, str]:
    return {name: tasks.quantile(part, histogram) for name, part in _QUANTILES.items()}
