"""The dashboard of one task."""

from __future__ import annotations

from typing import Final

from taskobs.dashboards import names, task_panels
from taskobs.dashboards.choices import (
    CHOOSE_JOB,
    CHOOSE_QUEUE,
    CHOOSE_TASK,
    SEARCHES,
    TASK_UID,
    task_links,
)
from taskobs.dashboards.panels import Dashboard, Row, graph, stat
from taskobs.dashboards.queries import JOB, OF_QUEUE, TaskQueries, legend

_ONE: Final = f'{names.TASK}="$task"'
_RUNS: Final = TaskQueries(f"{OF_QUEUE}, {_ONE}")
_TASK: Final = TaskQueries(f"{JOB}, {_ONE}")
"""For what has no queue."""
_OLDEST: Final = f"max({names.OLDEST_RUN}{{{JOB}, {_ONE}}}) or vector(0)"
_CPU: Final = f"{_TASK.rate(names.CPU_TIME)} / ({_TASK.runs()} > 0)"

_NOW: Final = Row(
    title="$task",
    panels=(
        stat("Runs", "Runs that end in a second, retries too.", _RUNS.runs(), unit="suffix:/s"),
        stat(
            "Error ratio",
            "Failed and lost runs among all that ended, without retries and expected exceptions.",
            _RUNS.error_ratio(),
            unit="percentunit",
        ),
        stat(
            "Run time, p95",
            "95 % of the runs have ended within this time.",
            _RUNS.quantile(0.95, names.RUN_TIME),
            unit="s",
        ),
        stat(
            "Queue wait, p95",
            "95 % of the messages have waited for less than this.",
            _RUNS.quantile(0.95, names.QUEUE_WAIT),
            unit="s",
        ),
        stat(
            "Longest run now",
            "How long the oldest run of this task has been active; 0 if none is.",
            _OLDEST,
            unit="s",
        ),
        stat("CPU time of a run", "CPU time of its thread, on average.", _CPU, unit="s"),
    ),
)

_OVER_TIME: Final = Row(
    title="Over time",
    panels=(
        task_panels.ends_of_runs(_RUNS),
        task_panels.error_ratio(_RUNS),
        graph(
            "Failures by exception",
            "Runs that fail in a second, by what made them, expected exceptions too.",
            {legend(names.ERROR): _RUNS.rate(names.FAILURES, names.ERROR)},
            unit="suffix:/s",
            stacked=True,
        ),
        task_panels.run_time(_RUNS),
        task_panels.queue_wait(_RUNS),
        task_panels.messages(_RUNS),
        graph(
            "Runs by queue",
            "Runs that end in a second, by the queue that their message came from.",
            {legend(names.QUEUE): _RUNS.runs(names.QUEUE)},
            unit="suffix:/s",
            stacked=True,
        ),
        graph(
            "Longest run now",
            "How long the oldest run of this task has been active: one that is stuck rises.",
            {"oldest": _OLDEST},
            unit="s",
        ),
        graph(
            "CPU time of a run",
            "CPU time of its thread, on average. Far below the run time: it waits for others.",
            {"CPU": _CPU},
            unit="s",
        ),
    ),
)

BY_TASK: Final = Dashboard(
    uid=TASK_UID,
    title="Celery: by task",
    description="One task: how often, how long, how it ends, and by what it fails.",
    variables=(CHOOSE_JOB, CHOOSE_TASK, CHOOSE_QUEUE, *SEARCHES),
    rows=(_NOW, _OVER_TIME),
    links=task_links("${task:percentencode}"),
)
