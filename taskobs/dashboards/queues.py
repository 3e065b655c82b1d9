"""The dashboard of queues: what `taskobs monitor` exports.

Each query takes the maximum over monitors: two of them export the same numbers, not parts of them.
"""

from __future__ import annotations

from typing import Final

from taskobs import semconv
from taskobs.dashboards.panels import Dashboard, Panel, Query, Row, Variable
from taskobs.metrics.families import Family, plain_name


def _name(name: str, unit: str = "") -> str:
    return Family(name=name, kind="gauge", meaning="", unit=unit).prometheus_name


MESSAGES: Final = _name(semconv.METRIC_QUEUE_MESSAGES)
AGE: Final = _name(semconv.METRIC_QUEUE_OLDEST_AGE, "s")
CONSUMERS: Final = _name(semconv.METRIC_QUEUE_CONSUMERS)
CONNECTED: Final = _name(semconv.METRIC_MONITOR_CONNECTED)
_QUEUE: Final = plain_name(semconv.CELERY_QUEUE)
_STATE: Final = plain_name(semconv.CELERY_STATE)
_CHOSEN: Final = f'job=~"$job", {_QUEUE}=~"$queue"'


def _max(metric: str, by: str, *, state: str = "") -> str:
    only = f', {_STATE}="{state}"' if state else ""
    return f"max by ({by}) ({metric}{{{_CHOSEN}{only}}})"


_OF_QUEUE: Final = f"{{{{{_QUEUE}}}}}"
_READY: Final = _max(MESSAGES, _QUEUE, state="ready")
_UNACKED: Final = _max(MESSAGES, _QUEUE, state="unacked")
_AGES: Final = _max(AGE, _QUEUE)
_TAKERS: Final = _max(CONSUMERS, _QUEUE)

QUEUES: Final = Dashboard(
    uid="taskobs-queues",
    title="Celery: queues",
    description="What waits for the workers, for how long, and who takes it; by `taskobs monitor`.",
    variables=(
        Variable(name="job", label="Job", query=f"label_values({CONNECTED}, job)"),
        Variable(
            name="queue", label="Queue", query=f'label_values({MESSAGES}{{job=~"$job"}}, {_QUEUE})'
        ),
    ),
    rows=(
        Row(
            title="All queues",
            panels=(
                Panel(
                    title="Ready",
                    description="Messages in all chosen queues that wait for a worker.",
                    queries=(Query(expression=f"sum({_READY})"),),
                    kind="stat",
                    width=6,
                    height=4,
                ),
                Panel(
                    title="Oldest message",
                    description="How long the oldest message of all chosen queues has waited.",
                    queries=(Query(expression=f"max({_AGES})"),),
                    kind="stat",
                    unit="s",
                    width=6,
                    height=4,
                ),
                Panel(
                    title="Queues without consumers",
                    description="Queues that no worker consumes from. 0 is what you want.",
                    queries=(Query(expression=f"count({_TAKERS} == 0) or vector(0)"),),
                    kind="stat",
                    width=6,
                    height=4,
                ),
                Panel(
                    title="Broker can be asked",
                    description="1 while a monitor reaches the broker; at 0 nothing here is new.",
                    queries=(Query(expression=f'max({CONNECTED}{{job=~"$job"}})'),),
                    kind="stat",
                    width=6,
                    height=4,
                ),
                Panel(
                    title="Queues now",
                    description="Each queue: ready, unacked, seconds of the oldest, consumers.",
                    queries=(
                        Query(expression=_READY, legend="Ready"),
                        Query(expression=_UNACKED, legend="Unacked"),
                        Query(expression=_AGES, legend="Oldest (s)"),
                        Query(expression=_TAKERS, legend="Consumers"),
                    ),
                    kind="table",
                    width=24,
                ),
                Panel(
                    title="Ready by queue",
                    description="A line that rises for long: tasks come faster than they are run.",
                    queries=(Query(expression=_READY, legend=_OF_QUEUE),),
                    width=12,
                ),
                Panel(
                    title="Age of the oldest message by queue",
                    description="What users feel. While nothing is taken, it rises with the time.",
                    queries=(Query(expression=_AGES, legend=_OF_QUEUE),),
                    unit="s",
                    width=12,
                ),
            ),
        ),
        Row(
            title="Queue $queue",
            repeat="queue",
            panels=(
                Panel(
                    title="Messages",
                    description="Ready for a worker, and taken by one without being acknowledged.",
                    queries=(
                        Query(
                            expression=_max(MESSAGES, f"{_QUEUE}, {_STATE}"),
                            legend=f"{{{{{_STATE}}}}}",
                        ),
                    ),
                    stacked=True,
                ),
                Panel(
                    title="Age of the oldest message",
                    description="Seconds since its publish; 0 while the queue is empty.",
                    queries=(Query(expression=_AGES, legend="oldest"),),
                    unit="s",
                ),
                Panel(
                    title="Consumers",
                    description="Workers that consume from the queue.",
                    queries=(Query(expression=_TAKERS, legend="consumers"),),
                ),
            ),
        ),
    ),
)
