"""The dashboard to begin with: all tasks, queues and workers."""

from __future__ import annotations

from typing import Final

from taskobs.dashboards import names, task_panels
from taskobs.dashboards.choices import (
    CHOOSE_JOB,
    CHOOSE_QUEUE,
    CHOOSE_TASKS,
    SEARCHES,
    links_of_column,
)
from taskobs.dashboards.panels import Dashboard, Row, graph, stat, table
from taskobs.dashboards.queries import (
    JOB,
    OF_QUEUE,
    PROCESS_LOST,
    TaskQueries,
    highest,
    legend,
    total,
)
from taskobs.dashboards.queues import AGES, READY

_TASKS: Final = TaskQueries(f'{OF_QUEUE}, {names.TASK}=~"$task"')
_WORKERS: Final = TaskQueries(JOB)
_WAITS: Final = TaskQueries(OF_QUEUE)
_TOP: Final = 10
_UP: Final = 60
"""Seconds since the last sign of a worker that is up."""
_AGE: Final = f"time() - {names.HEARTBEAT}{{{JOB}}}"
_LIMIT: Final = total(f"{names.POOL_LIMIT}{{{JOB}}}")
_LOST: Final = _WORKERS.increase(names.PROCESS_EXITS, also=PROCESS_LOST)


def _in_state(state: str) -> str:
    return total(f'{names.TASKS}{{{JOB}, {names.STATE}="{state}"}}')


def _in_a_minute(counter: str, by: str) -> str:
    return f"60 * {_WORKERS.rate(counter, by)}"


def _top(expression: str) -> str:
    return f"topk({_TOP}, {expression} > 0)"


_NOW: Final = Row(
    title="Now",
    panels=(
        stat(
            "Workers",
            "Workers whose event loop has run within the last minute.",
            f"count({_AGE} < {_UP}) or vector(0)",
        ),
        stat(
            "Slots in use",
            "Tasks that run now, as a share of those that the pools have room for.",
            f"{_in_state('active')} / ({_LIMIT} > 0)",
            unit="percentunit",
        ),
        stat(
            "Ready",
            "Messages in all chosen queues that wait for a worker; by `taskobs monitor`.",
            f"sum({READY})",
        ),
        stat(
            "Oldest message",
            "How long the oldest message of all chosen queues has waited.",
            f"max({AGES})",
            unit="s",
        ),
        stat(
            "Error ratio",
            "Failed and lost runs among all that ended, without retries and expected exceptions.",
            _TASKS.error_ratio(),
            unit="percentunit",
        ),
        stat(
            "Lost processes",
            "Pool processes that were killed or ended by themselves, in the chosen time.",
            f"{_LOST} or vector(0)",
        ),
    ),
)

_OF_TASKS: Final = Row(
    title="Tasks",
    panels=(
        task_panels.ends_of_runs(_TASKS),
        task_panels.error_ratio(_TASKS),
        task_panels.messages(_TASKS),
        task_panels.run_time(_TASKS),
        task_panels.queue_wait(_TASKS),
        graph(
            "Ready by queue",
            "A line that rises for long: tasks come faster than they are run.",
            {legend(names.QUEUE): READY},
        ),
    ),
)

_WORST: Final = Row(
    title="What fails, and what is slow",
    panels=(
        table(
            "Tasks that fail most",
            "Failed and lost runs in the chosen time, without expected exceptions.",
            {"Failures": _top(_TASKS.failed(names.TASK))},
            links=links_of_column(),
        ),
        table(
            "Exceptions",
            "What made runs fail in the chosen time; `WorkerLostError` is a process that died.",
            {"Failures": _top(_TASKS.failed(names.ERROR))},
        ),
        table(
            "Slowest tasks",
            "The time within which 95 % of a task's runs have ended.",
            {"p95": _top(_TASKS.quantile(0.95, names.RUN_TIME, names.TASK))},
            unit="s",
            links=links_of_column(),
        ),
    ),
)

_OF_WORKERS: Final = Row(
    title="Workers",
    panels=(
        graph(
            "Slots",
            "Tasks that run, or that workers hold for later, and what the pools have room for.",
            {
                "active": _in_state("active"),
                "reserved": _in_state("reserved"),
                "scheduled": _in_state("scheduled"),
                "limit": _LIMIT,
            },
        ),
        graph(
            "Ends of pool processes",
            "In a minute, by why: `signal` and `error` are processes that were lost, "
            "`limit` is a hard time limit.",
            {legend(names.REASON): _in_a_minute(names.PROCESS_EXITS, names.REASON)},
            unit="suffix:/min",
        ),
        graph(
            "Memory",
            "Resident memory of all workers, by kind of process.",
            {legend(names.PROCESS): total(f"{names.MEMORY}{{{JOB}}}", names.PROCESS)},
            unit="bytes",
            stacked=True,
        ),
        graph(
            "Longest run now",
            "How long the oldest run of each task has been active: what is stuck rises.",
            {legend(names.TASK): highest(names.OLDEST_RUN, names.TASK, also=JOB)},
            unit="s",
        ),
        graph(
            "Since the last heartbeat",
            "Seconds since the event loop of each worker was seen to run.",
            {legend("instance"): _AGE},
            unit="s",
        ),
        graph(
            "Wait in workers",
            "From the receipt by the worker, or the ETA, to the start of the run: 95 % of them.",
            {legend(names.QUEUE): _WAITS.quantile(0.95, names.PREFETCH_WAIT, names.QUEUE)},
            unit="s",
        ),
        graph(
            "CPU time by task",
            "Cores that the tasks keep busy, the ten that take the most.",
            {legend(names.TASK): _top(_WORKERS.rate(names.CPU_TIME, names.TASK))},
            width=12,
        ),
        graph(
            "New connections to the broker",
            "In a minute, by worker. Each one is an outage, or a broker that was restarted.",
            {legend("instance"): _in_a_minute(names.RECONNECTS, "instance")},
            unit="suffix:/min",
            width=12,
        ),
    ),
)

OVERVIEW: Final = Dashboard(
    uid="taskobs-overview",
    title="Celery: overview",
    description="Are tasks failing, how long do they wait and run, are there enough workers?",
    variables=(CHOOSE_JOB, CHOOSE_QUEUE, CHOOSE_TASKS, *SEARCHES),
    rows=(_NOW, _OF_TASKS, _WORST, _OF_WORKERS),
)
