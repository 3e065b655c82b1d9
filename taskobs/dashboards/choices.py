"""What is chosen at the top of a dashboard, and the links that depend on it."""

from __future__ import annotations

from typing import Final
from urllib.parse import quote

from taskobs import semconv
from taskobs.dashboards import names
from taskobs.dashboards.panels import Link, TextVariable, Variable
from taskobs.dashboards.queries import JOB

TASK_UID: Final = "taskobs-task"
"""The address of the dashboard of one task."""

_JOBS: Final = f'{{__name__=~"{names.HEARTBEAT}|{names.CONNECTED}"}}'
_QUEUES: Final = f'{{__name__=~"{names.RECEIVED}|{names.MESSAGES}", {JOB}}}'
_TASKS: Final = f"{names.RECEIVED}{{{JOB}}}"

CHOOSE_JOB: Final = Variable(name="job", label="Job", metric=_JOBS, values="job")
CHOOSE_QUEUE: Final = Variable(name="queue", label="Queue", metric=_QUEUES, values=names.QUEUE)
CHOOSE_TASKS: Final = Variable(name="task", label="Task", metric=_TASKS, values=names.TASK)
CHOOSE_TASK: Final = Variable(
    name="task", label="Task", metric=_TASKS, values=names.TASK, several=False
)
SEARCHES: Final = (
    TextVariable(name="jaeger", label="Jaeger", value="http://127.0.0.1:16686"),
    TextVariable(name="service", label="Service in Jaeger", value="celery"),
    TextVariable(name="sentry", label="Sentry's search", value="https://sentry.io/issues/?query="),
)
"""By them links lead to the traces and errors of a task."""


def task_links(task: str) -> tuple[Link, ...]:
    """Return the links to the traces and errors of a task; ``task`` is Grafana's word for it."""
    operation = quote(semconv.RUN_SPAN)
    return (
        Link(
            "Traces in Jaeger",
            "${jaeger:raw}/search?service=${service:percentencode}"
            f"&operation={operation}{task}",
        ),
        Link("Errors in Sentry", f"${{sentry:raw}}{quote(semconv.TAG_TASK_NAME)}%3A{task}"),
    )


def links_of_column() -> dict[str, tuple[Link, ...]]:
    """Return where a name of a task in a table leads."""
    task = "${__value.raw}"
    here = Link(
        "Dashboard of this task",
        f"/d/{TASK_UID}?var-task={task}&${{datasource:queryparam}}&${{job:queryparam}}"
        "&${__url_time_range}",
    )
    return {names.TASK: (here, *task_links(task))}
