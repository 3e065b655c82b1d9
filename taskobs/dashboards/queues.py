"""The dashboard of queues: what `taskobs monitor` exports.

Each query takes the maximum over monitors: two of them export the same numbers, not parts of them.
"""

from __future__ import annotations

from typing import Final

from taskobs.dashboards import names
from taskobs.dashboards.choices import CHOOSE_JOB, CHOOSE_QUEUE
from taskobs.dashboards.panels import Dashboard, Row, graph, stat, table
from taskobs.dashboards.queries import JOB, highest, legend, messages

READY: Final = messages("ready")
"""By queue."""
AGES: Final = highest(names.OLDEST_MESSAGE, names.QUEUE)
"""By queue."""
_UNACKED: Final = messages("unacked")
_CONSUMERS: Final = highest(names.CONSUMERS, names.QUEUE)
_OF_QUEUE: Final = legend(names.QUEUE)

QUEUES: Final = Dashboard(
    uid="taskobs-queues",
    title="Celery: queues",
    description="What waits for the workers, for how long, and who takes it; by `taskobs monitor`.",
    variables=(CHOOSE_JOB, CHOOSE_QUEUE),
    rows=(
        Row(
            title="All queues",
            panels=(
                stat(
                    "Ready",
                    "Messages in all chosen queues that wait for a worker.",
                    f"sum({READY})",
                    width=6,
                ),
                stat(
                    "Oldest message",
                    "How long the oldest message of all chosen queues has waited.",
                    f"max({AGES})",
                    unit="s",
                    width=6,
                ),
                stat(
                    "Queues without consumers",
                    "Queues that no worker consumes from. 0 is what you want.",
                    f"count({_CONSUMERS} == 0) or vector(0)",
                    width=6,
                ),
                stat(
                    "Broker can be asked",
                    "1 while a monitor reaches the broker; at 0 nothing here is new.",
                    f"max({names.CONNECTED}{{{JOB}}})",
                    width=6,
                ),
                table(
                    "Queues now",
                    "Each queue: ready, unacked, seconds of the oldest, consumers.",
                    {
                        "Ready": READY,
                        "Unacked": _UNACKED,
                        "Oldest (s)": AGES,
                        "Consumers": _CONSUMERS,
                    },
                    width=24,
                ),
                graph(
                    "Ready by queue",
                    "A line that rises for long: tasks come faster than they are run.",
                    {_OF_QUEUE: READY},
                    width=12,
                ),
                graph(
                    "Age of the oldest message by queue",
                    "What users feel. While nothing is taken, it rises with the time.",
                    {_OF_QUEUE: AGES},
                    unit="s",
                    width=12,
                ),
            ),
        ),
        Row(
            title="Queue $queue",
            repeat="queue",
            panels=(
                graph(
                    "Messages",
                    "Ready for a worker, and taken by one without being acknowledged.",
                    {legend(names.STATE): highest(names.MESSAGES, names.QUEUE, names.STATE)},
                    stacked=True,
                ),
                graph(
                    "Age of the oldest message",
                    "Seconds since its publish; 0 while the queue is empty.",
                    {"oldest": AGES},
                    unit="s",
                ),
                graph(
                    "Consumers",
                    "Workers that consume from the queue.",
                    {"consumers": _CONSUMERS},
                ),
            ),
        ),
    ),
)
