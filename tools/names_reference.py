"""Write the page of all names that leave a process; with ``--check``, only say if it is stale."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from taskobs import semconv
from taskobs.celery.queues.readings import Reading
from taskobs.metrics.families import Family, plain_name
from taskobs.metrics.worker_families import Gauges, families_of, published
from taskobs.metrics.worker_table import WorkerTable
from taskobs.monitor.series import families_of as families_of_queues
from taskobs.relay.metrics.relay_families import possible_families
from tools.generated import update

PAGE: Final = Path(__file__).resolve().parent.parent / "docs/reference/names.md"
HEAD: Final = """\
# Names

<!-- Written by `make docs`, from taskobs/semconv.py and the metrics themselves. -->

Every name that leaves a process, as the code has it. What each means, and when it is there, is in
[What is recorded, name by name](../recording.md).
"""
SECTIONS: Final = {
    "Span attributes": (
        *("MESSAGING_", "SERVER_", "ERROR_", "PROCESS_"),
        *("CELERY_", "SENTRY_EVENT_", "TASKOBS_"),
    ),
    "Links": ("LINK_",),
    "Message headers": ("HEADER_",),
    "Sentry tags": ("TAG_",),
    "Log fields": ("LOG_",),
    "Attributes of log records": ("RECORD_",),
}
"""By the heading in docs/recording.md, how the constants in semconv begin."""
SPANS: Final = (semconv.PUBLISH_SPAN, semconv.RUN_SPAN)
CONTEXTS: Final = (semconv.SENTRY_CONTEXT, semconv.SENTRY_CONTEXT_LINKS)


def page() -> str:
    """Return the whole page."""
    return "\n".join([HEAD, *_spans(), *_names(), *_metrics(), *_labels()]).rstrip() + "\n"


def metrics() -> list[Family]:
    """Return every metric, without series."""
    queues = families_of_queues(Reading(queues=()), connected=True)
    worker = [published({}), *families_of(WorkerTable(), Gauges())]
    return [*worker, *queues, *possible_families()]


def _spans() -> Iterator[str]:
    yield from ("## Spans", "", "[What they are](../recording.md#spans).", "")
    yield from (f"* `{span}{{task}}`" for span in SPANS)
    yield from ("", f"The instrumentation scope is `{semconv.STOCK_SCOPE}`.", "")


def _names() -> Iterator[str]:
    for heading, prefixes in SECTIONS.items():
        anchor = heading.lower().replace(" ", "-")
        names = [value for name, value in vars(semconv).items() if name.startswith(prefixes)]
        yield from (f"## {heading}", "", f"[What they mean](../recording.md#{anchor}).", "")
        yield from (f"* `{name}`" for name in sorted({*names}))
        if heading == "Sentry tags":
            contexts = " and ".join(f"`{name}`" for name in CONTEXTS)
            yield from ("", f"Events also have the contexts {contexts}, and `{semconv.SENTRY_JOB}`")
            yield "in `extra`."
        yield ""


def _metrics() -> Iterator[str]:
    yield from ("## Metrics", "", "[What they count](../recording.md#metrics).", "")
    yield from ("| Name | In Prometheus | Kind | Unit | Meaning |", "|---|---|---|---|---|")
    for family in metrics():
        total = "_total" if family.kind == "counter" else ""
        cells = f"`{family.name}` | `{family.prometheus_name}{total}` | {family.kind}"
        yield f"| {cells} | {_unit(family)} | {family.meaning} |"
    yield ""
    yield f"`{semconv.STOCK_HISTOGRAM}`, the histogram of OpenTelemetry's own instrumentation,"
    yield from ("goes to the app's `MeterProvider`.", "")


def _unit(family: Family) -> str:
    return f"`{family.unit}`" if family.unit.strip("1") else ""


def _labels() -> Iterator[str]:
    yield from ("## Attributes of metrics", "")
    yield from ("[What they mean](../recording.md#attributes-of-metrics).", "")
    yield from ("| Name | In Prometheus |", "|---|---|")
    own = [value for name, value in vars(semconv).items() if name.startswith(("RELAY_", "WORKER_"))]
    shared = [semconv.CELERY_TASK_NAME, semconv.CELERY_QUEUE, semconv.CELERY_OUTCOME]
    shared += [semconv.CELERY_STATE, semconv.CELERY_REASON, semconv.CELERY_EXPECTED]
    for name in sorted([*own, *shared, semconv.ERROR_TYPE]):
        yield f"| `{name}` | `{plain_name(name)}` |"


if __name__ == "__main__":
    sys.exit(update(PAGE, page(), __doc__))
